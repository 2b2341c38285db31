"""What goes wrong, and what the user reads then: one line, and an exit code that says which kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.invoke import REPO, process, run

from diffembed import errors, verbs, verbs_index
from diffembed.exits import EXIT_DEFECT


def test_missing_path(tiny_model_dir: Path, tmp_path: Path) -> None:
    run("search", "x", tmp_path / "nowhere", "--model", tiny_model_dir).fails(2, "nowhere")
    into = tmp_path / "i"
    run("index", tmp_path / "nowhere", "--into", into, "--model", tiny_model_dir).fails(2, "nowhere")
    assert not into.exists()
    output = tmp_path / "x.npy"
    run("encode", tmp_path / "nowhere.txt", "--output", output, "--model", tiny_model_dir).fails(2, "nowhere.txt")
    run("evaluate", "retrieval", "--data", tmp_path / "nowhere", "--model", "bm25").fails(2, "nowhere")
    run("train", tmp_path / "nowhere.toml").fails(5, "nowhere.toml")


def test_empty_folder(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run("search", "x", tmp_path / "empty", "--model", tiny_model_dir).fails(2, "empty")
    run("index", tmp_path / "empty", "--into", tmp_path / "i", "--model", tiny_model_dir).fails(2, "empty")
    assert not (tmp_path / "i").exists()


def test_binary_file(tiny_model_dir: Path, tmp_path: Path, notes: Path) -> None:
    binary = tmp_path / "image.bin"
    binary.write_bytes(bytes(range(256)) * 8)
    run("search", "x", binary, "--model", tiny_model_dir).fails(2, "image.bin")
    shutil.copy(binary, notes / "image.bin")
    found = run("search", "the cat", notes, "--model", tiny_model_dir)
    assert found.code == 0
    assert "image.bin" in found.stderr  # left out, but not in silence
    output = tmp_path / "x.npy"
    named = tmp_path / "binary.txt"
    shutil.copy(binary, named)
    run("encode", named, "--output", output, "--model", tiny_model_dir).fails(2, "binary.txt")
    assert not output.exists()


@pytest.mark.parametrize("query", ["", "  \n"])
def test_empty_query(query: str, notes: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    run("search", query, notes, "--model", tiny_model_dir).fails(2, "query")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "line", ['{"text": ', '{"txt": "x"}', '{"text": 3}', '{"chunks": []}', '"text"', '{"text": ""}']
)
def test_unreadable_jsonl_line_is_named(line: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.jsonl", tmp_path / "texts.npy"
    source.write_text('{"text": "fine"}\n' + line + "\n", encoding="utf-8")
    run("encode", source, "--output", output, "--model", tiny_model_dir).fails(2, "2")
    assert not output.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith((".texts", "texts.npy"))] == []


def test_width_that_was_not_trained(tiny_model_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("one\n", encoding="utf-8")
    ran = run("encode", source, "--output", tmp_path / "x.npy", "--dims", "17", "--model", tiny_model_dir)
    ran.fails(2, "17", "16", "32", "64")
    assert not (tmp_path / "x.npy").exists()


def test_unknown_kind_of_output(tiny_model_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("one\n", encoding="utf-8")
    run("encode", source, "--output", tmp_path / "x.csv", "--model", tiny_model_dir).fails(2, ".npy", ".parquet")


def remove(file: Path) -> None:
    file.unlink()


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [remove, truncate])
@pytest.mark.parametrize("name", ["diffembed.json", "config.json", "tokenizer.json", "model.safetensors", "onnx"])
def test_damaged_model(
    name: str, damage: Callable[[Path], None], tiny_model_dir: Path, tmp_path: Path, notes: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    for file in (model / name).glob("*.onnx") if name == "onnx" else [model / name]:
        damage(file)
    # torch could run a model whose graphs are gone; the base install has none.
    search = process if name == "onnx" else run
    blocked = {"before": "sys.modules.update(torch=None, transformers=None)"} if name == "onnx" else {}
    search("search", "x", notes, "--model", model, **blocked).fails(3, name)
    output = tmp_path / "x.npy"
    (tmp_path / "texts.txt").write_text("one\n", encoding="utf-8")
    search("encode", tmp_path / "texts.txt", "--output", output, "--model", model, **blocked).fails(3)
    assert not output.exists()


def test_model_that_is_not_there(notes: Path, tmp_path: Path) -> None:
    ran = run("search", "x", notes, "--model", tmp_path / "nowhere")
    ran.fails(3, "nowhere")


def test_index_of_another_model(notes: Path, tiny_model_dir: Path, minilm_dir: Path, tmp_path: Path) -> None:
    assert run("index", notes, "--into", tmp_path / "i", "--model", tiny_model_dir).code == 0
    run("search", "x", tmp_path / "i", "--model", minilm_dir).fails(4)


def test_recipe_with_an_unknown_key(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('name = "x"\nlearning_speed = 3\n', encoding="utf-8")
    run("train", recipe).fails(5, "learning_speed")
    run("pretrain", recipe).fails(5, "learning_speed")
    recipe.write_text("name = ", encoding="utf-8")
    run("train", recipe).fails(5, "recipe.toml")


def test_mine_with_impossible_settings_or_files(beir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    into = tmp_path / "triplets.jsonl"
    run("mine", tmp_path / "nowhere", "--into", into).fails(2, "nowhere")
    run("mine", beir, "--into", tmp_path / "triplets.csv").fails(2, ".jsonl")
    run("mine", beir, "--into", into, "--first", "9", "--last", "3").fails(2, "first is 9 and last is 3")
    run("mine", beir, "--into", into, "--relative-margin", "nan").fails(2, "relative_margin")
    run("mine", beir, "--into", into, "--model", tmp_path / "nowhere").fails(3, "nowhere")
    run("mine", beir, "--into", into, "--model", tiny_model_dir, "--teacher", tmp_path / "nowhere").fails(3, "nowhere")
    run("mine", beir, "--into", into, "--index", beir).fails(2, "not an index")
    assert not into.exists()


def test_a_defect_is_one_line_and_a_traceback_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(verbs_index, "search", broken)
    run("search", "x").fails(EXIT_DEFECT, "ZeroDivisionError: by zero", "DIFFEMBED_DEBUG=1")
    monkeypatch.setenv("DIFFEMBED_DEBUG", "1")
    ran = run("search", "x")
    assert ran.code == EXIT_DEFECT
    assert "Traceback" in ran.stderr


@pytest.mark.parametrize(
    ("raised", "code", "word"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (errors.TrainingError("the loss is not finite"), 6, "not finite"),
        (errors.StoppedError("stopped by SIGTERM after step 3"), 143, "SIGTERM"),
        (PermissionError(13, "Permission denied", "/a/file"), 1, "Permission denied: /a/file"),
        (MemoryError(), 1, "out of memory"),
    ],
)
def test_every_way_to_fail_has_its_code(
    raised: BaseException, code: int, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*args: object, **options: object) -> None:
        raise raised

    monkeypatch.setattr(verbs, "doctor", failing)
    run("doctor").fails(code, word)


def test_reader_that_goes_away() -> None:
    code = "from diffembed import cli, console, verbs\n"
    code += "verbs.doctor = lambda **_: [console.emit('x' * 100) for _ in range(10_000)]\ncli.app(['doctor'])"
    writer = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
    )
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.read(10)
    writer.stdout.close()
    said = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait(timeout=60) == 141
    assert said == b""
