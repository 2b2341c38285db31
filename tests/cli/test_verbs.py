"""The command line as a user meets it: output, JSON, exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.cli.invoke import REPO, parsed, process, run

from diffembed import __version__, errors
from diffembed.doctor import BUNDLED
from diffembed.exits import EXIT_CODES, EXIT_DEFECT, EXIT_INTERRUPTED

VERBS = [
    "search",
    "index",
    "index add",
    "index import",
    "index export",
    "index get",
    "index list",
    "index count",
    "index delete",
    "index compact",
    "index verify",
    "index stats",
    "encode",
    "verify",
    "pretrain",
    "train",
    "mine",
    "infill",
    "evaluate",
    "evaluate retrieval",
    "evaluate sets",
    "evaluate compare",
    "evaluate NAME",
    "evaluate passkey",
    "evaluate needle",
    "evaluate contextual",
    "evaluate scale",
    "export",
    "models",
    "doctor",
]
needs_bundled = pytest.mark.skipif(
    not (BUNDLED / "diffembed.json").exists(),
    reason="the embedded model has not been trained: src/diffembed/bundled is empty",
)


def test_help_of_every_verb_has_an_example_that_parses() -> None:
    for verb in VERBS:
        shown = run(*verb.split(), "--help")
        assert shown.code == 0
        examples = re.findall(r"^ +(?:cat \S+ \| )?diffembed (.+)$", shown.stdout.partition("Example")[2], re.MULTILINE)
        assert examples, f"{verb} --help has no example"
        for example in examples:
            assert parsed(shlex.split(example))


def test_every_data_verb_has_json() -> None:
    for verb in VERBS:
        assert verb == "evaluate" or "--json" in run(*verb.split(), "--help").stdout


def test_exit_codes_are_documented() -> None:
    shown = run("--help").stdout
    assert "Exit codes:" in shown
    documented = {int(code) for code in re.findall(r"^ +(\d+)  ", EXIT_CODES, re.MULTILINE)}
    kinds = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert documented == kinds | {0, EXIT_DEFECT, EXIT_INTERRUPTED, 141}
    formats = (REPO / "docs" / "formats.md").read_text(encoding="utf-8")
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", formats, re.MULTILINE)} == documented


def test_no_verb_shows_the_help() -> None:
    for args in ([], ["evaluate"]):
        shown = run(*args)
        assert shown.code == 0
        assert shown.stdout.startswith("Usage: diffembed")


def test_version() -> None:
    assert run("--version").stdout == f"diffembed {__version__}\n"
    ran = subprocess.run(
        [sys.executable, "-m", "diffembed", "--version"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "src")},
    )
    assert ran.stdout == f"diffembed {__version__}\n"


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["serch", "x"], "serch"),
        (["search"], "QUERY"),
        (["search", "x", "--top", "0"], "--top"),
        (["search", "x", "--colour"], "--colour"),
        (["encode", "x.txt"], "--output"),
        (["encode", "x.txt", "--output", "x.npy", "--dtype", "int4"], "int4"),
        (["index", "x"], "--into"),
        (["mine", "x"], "--into"),
        (["mine", "x", "--into", "y.jsonl", "--sampling", "bottom"], "bottom"),
        (["evaluate", "retrieval", "--data", "x", "--split", "test"], "test"),
        (["--colour"], "--colour"),
    ],
)
def test_wrong_use_is_one_line(args: list[str], word: str) -> None:
    run(*args).fails(2, word, "--help")


def test_search_prints_ranked_chunks_with_the_best_sentence_marked(notes: Path, tiny_model_dir: Path) -> None:
    found = run("search", "the cat sleeps", notes, "--model", tiny_model_dir, "--top", "2")
    assert found.code == 0, found.stderr
    heads = re.findall(r"^(\d)\. (\S+):(\d+)(?:-(\d+))?  (-?[01]\.\d{3})$", found.stdout, re.MULTILINE)
    assert [head[0] for head in heads] == ["1", "2"]
    assert all(Path(notes.parent, head[1]).exists() or Path(head[1]).exists() for head in heads)
    assert len(re.findall(r"»[^«]+«", found.stdout)) == 2
    assert "3 added" in found.stderr
    assert "\x1b" not in found.stdout


def test_search_json_is_all_of_stdout_and_reuses_the_index(notes: Path, tiny_model_dir: Path) -> None:
    args = ("search", "the cat sleeps", notes, "--model", tiny_model_dir, "--json")
    first = run(*args).json
    assert first["query"] == "the cat sleeps"
    hit = first["hits"][0]
    assert {"path", "line_start", "line_end", "score", "text", "best_sentence"} <= set(hit)
    assert hit["best_sentence"] in hit["text"]
    scores = [h["score"] for h in first["hits"]]
    assert scores == sorted(scores, reverse=True)

    (notes / "new.txt").write_text("the cat sleeps", encoding="utf-8")
    (notes / "code.py").unlink()
    again = run(*args).json
    assert again["hits"][0]["path"].endswith("new.txt")
    assert again["hits"][0]["score"] == pytest.approx(1.0, abs=1e-3)
    assert not any(h["path"].endswith("code.py") for h in again["hits"])


def test_index_into_a_folder_and_search_it(notes: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    into = tmp_path / "notes.index"
    made = run("index", notes, "--into", into, "--model", tiny_model_dir)
    assert made.code == 0, made.stderr
    assert made.stdout == ""
    assert "3 added" in made.stderr
    report = run("index", notes, "--into", into, "--model", tiny_model_dir, "--json").json
    assert report["index"] == str(into)
    assert run("search", "the cat", into, "--model", tiny_model_dir, "--json").json["hits"]


def test_text_of_files_cannot_steer_the_terminal(notes: Path, tiny_model_dir: Path) -> None:
    (notes / "evil.txt").write_text("The cat \x1b[2J\x1b]0;title\x07 sleeps.\n", encoding="utf-8")
    found = run("search", "The cat sleeps", notes, "--model", tiny_model_dir)
    assert found.code == 0, found.stderr
    assert "evil.txt" in found.stdout + found.stderr
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", found.stdout)


@pytest.mark.parametrize(("dtype", "shape"), [("float32", (2, 64)), ("int8", (2, 64)), ("binary", (2, 8))])
def test_encode_lines_to_npy(dtype: str, shape: tuple[int, int], tiny_model_dir: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "texts.txt", tmp_path / "texts.npy"
    source.write_text("The cat sleeps.\nDer Hund liest.\n", encoding="utf-8")
    done = run("encode", source, "--output", output, "--dtype", dtype, "--model", tiny_model_dir)
    assert done.code == 0, done.stderr
    assert done.stdout == ""
    vectors = np.load(output, allow_pickle=False)
    assert vectors.shape == shape
    assert vectors.dtype == {"float32": np.float32, "int8": np.int8, "binary": np.uint8}[dtype]


def test_encode_chunks_to_parquet(tiny_model_dir: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    source, output = tmp_path / "documents.jsonl", tmp_path / "documents.parquet"
    rows = [{"_id": "a", "chunks": ["The cat.", "It sleeps."]}, {"_id": "b", "chunks": ["Der Hund liest."]}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = run("encode", source, "--output", output, "--dims", "32", "--model", tiny_model_dir, "--json").json
    table = pyarrow.parquet.read_table(output)
    assert table.num_rows == 3
    assert report["dims"] == 32


def test_encode_reads_stdin(tiny_model_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "texts.npy"
    done = process("encode", "-", "--output", output, "--model", tiny_model_dir, stdin="one\ntwo\nthree\n")
    assert done.code == 0, done.stderr
    assert np.load(output).shape == (3, 64)


def test_export_of_a_sentence_transformers_model(minilm_source: Path, tmp_path: Path, beir: Path) -> None:
    into = tmp_path / "minilm"
    report = run("export", minilm_source, "--into", into, "--json").json
    assert "onnx/model_int8.onnx" in report["files"]
    scores = run("evaluate", "retrieval", "--data", beir, "--model", into, "--json").json["scores"]
    assert scores["ndcg@10"] == pytest.approx(1.0)


def test_models_lists_what_it_is_given(tiny_model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "more" / "broken"
    shutil.copytree(tiny_model_dir, broken)
    (broken / "tokenizer.json").unlink()
    rows = run("models", tiny_model_dir.parent, broken.parent, "--json").json["models"]
    by_path = {Path(row["path"]): row for row in rows}
    assert by_path[tiny_model_dir]["state"] == "ok"
    assert by_path[tiny_model_dir]["dims"] == [16, 32, 64]
    assert "tokenizer.json is missing" in by_path[broken]["state"]
    assert "16/32/64" in run("models", tiny_model_dir.parent).stdout
    run("models", tmp_path / "nowhere").fails(2, "nowhere")


def test_models_of_others_are_listed(minilm_source: Path) -> None:
    (row,) = (r for r in run("models", minilm_source, "--json").json["models"] if r["path"] == str(minilm_source))
    assert (row["dims"], row["max_tokens"], row["state"]) == ([384], 256, "ok")


def test_doctor_without_an_embedded_model_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("diffembed.doctor.diagnose.__kwdefaults__", {"bundled": tmp_path, "cache": None})
    seen = run("doctor")
    assert seen.code == 1
    assert "broken  embedded model" in seen.stdout
    assert "mend: " in seen.stdout
    assert seen.stderr == "diffembed: error: broken: embedded model; the lines with 'mend' above say what to do\n"
    seen = run("doctor", "--json")
    assert json.loads(seen.stdout)["healthy"] is False


@needs_bundled
def test_doctor_finds_a_whole_install() -> None:
    report = run("doctor", "--json").json
    assert report["healthy"] is True
    names = {finding["name"] for finding in report["findings"]}
    assert {"onnxruntime", "runtime", "processor", "embedded model", "cache folder", "disk"} <= names


@needs_bundled
def test_search_with_the_embedded_model_and_torch_blocked(notes: Path) -> None:
    blocked = "sys.modules.update(torch=None, transformers=None)"
    found = process("search", "Wo schläft die Katze?", notes, "--json", before=blocked)
    assert found.json["hits"]


def test_search_with_torch_blocked(notes: Path, tiny_model_dir: Path) -> None:
    blocked = "sys.modules.update(torch=None, transformers=None)"
    found = process("search", "the cat sleeps", notes, "--model", tiny_model_dir, "--json", before=blocked)
    assert found.json["hits"]
    assert found.stderr == ""


def test_pretrain_then_train_a_recipe_and_search_with_its_model(tmp_path: Path, notes: Path) -> None:
    from tests.training.conftest import write_run

    recipe = write_run(tmp_path)
    first = run("pretrain", recipe, "--json").json
    assert first["model"].endswith("model")
    assert not (tmp_path / "out" / "pairs").exists()
    done = run("train", recipe)
    assert done.code == 0, done.stderr
    assert "diffusion: complete, skipped" in done.stderr
    assert re.search(r"^set +untrained +base +diffusion +pairs-start +pairs$", done.stdout, re.MULTILINE)
    model = run("train", recipe, "--json").json["model"]
    assert run("search", "the cat sleeps", notes, "--model", model, "--json").json["hits"]


def test_mine_writes_triplets_and_says_what_it_dropped(beir: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    into = tmp_path / "triplets.jsonl"
    options = ("--model", tiny_model_dir, "--split", "all", "--negatives", "1", "--relative-margin", "0")
    told = run("mine", beir, "--into", into, *options)
    assert told.code == 0, told.stderr
    assert told.stdout == ""
    assert re.search(r"^wrote .*triplets\.jsonl: 3 triplets with 3 negatives from 3 pairs", told.stderr)
    assert "of 9 candidates dropped: judged 3" in told.stderr
    rows = [json.loads(line) for line in into.read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], len(row["negatives"])) for row in rows] == [(f"beir/q{i}", 1) for i in range(3)]
    report = run("mine", beir, "--into", into, *options, "--json").json
    written = json.loads((tmp_path / "triplets.jsonl.report.json").read_text(encoding="utf-8"))
    assert report == written
    assert (report["triplets"], report["dropped"], report["settings"]["negatives"]) == (3, {"judged": 3}, 1)


def test_mine_names_what_it_leaves_out(tmp_path: Path, tiny_model_dir: Path) -> None:
    rows = [{"id": f"q{i}", "query": f"the cat number {i}", "document": f"number {i} of the cats"} for i in range(30)]
    rows += [
        {"id": "same", "query": "the cat", "document": "the cat"},
        {"id": "far", "query": "the cat 1", "document": "x"},
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = run("mine", data, "--into", tmp_path / "out.jsonl", "--model", tiny_model_dir, "--margin", "0.2")
    assert told.code == 0, told.stderr
    assert re.search(r"^left out, no negative passed: \w+", told.stderr, re.MULTILINE)
    assert re.search(r"^\d+ pairs are not in split train; --split all takes them too$", told.stderr, re.MULTILINE)
    index = tmp_path / "index"
    (tmp_path / "note.txt").write_text("The cat sleeps.\n", encoding="utf-8")
    assert run("index", tmp_path / "note.txt", "--into", index, "--model", tiny_model_dir).code == 0
    found = run("mine", data, "--into", tmp_path / "i.jsonl", "--index", index, "--relative-margin", "0", "--json").json
    assert (found["index"], found["documents"], found["model"]) == (str(index), 1, str(tiny_model_dir))
