"""The batches of a stage: functions of the step, every window of every document once, mixed by weight."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import make_tokenizer
from tests.data.corpora import write_rows, write_texts

from diffembed.data import census
from diffembed.data.sources import draw, schedule
from diffembed.data.texts import Text
from diffembed.errors import InputError, RecipeError
from diffembed.text.batching import PackedBatch
from diffembed.training.batches import TextData
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.cutting import window
from diffembed.training.recipe import read_recipe
from diffembed.training.windows import DocumentWindows, pieces

TOKENIZER = make_tokenizer()
END = 2
WORDS = "dog cat fox engine token brown lazy quick search model".split()


def sentence(number: int, words: int) -> str:
    return " ".join([str(number), *(WORDS[(number * 3 + i * i) % 10] for i in range(words))])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two plain files with short and long texts, a compressed one in three languages."""
    folder = tmp_path_factory.mktemp("corpus")
    write_texts(folder / "a.jsonl", [sentence(i, i % 9) for i in range(120)])
    write_texts(folder / "b.jsonl", [sentence(1000 + i, 40 + 31 * i % 200) for i in range(20)])
    rows = [{"text": sentence(2000 + i, i % 30), "lang": ("de", "en", "fr")[i % 3]} for i in range(240)]
    write_rows(folder / "c.jsonl.gz", rows)
    return folder


def stage(*sources: SourceConfig, **values: Any) -> StageConfig:
    usual: dict[str, Any] = {"steps": 400, "batch": 256, "lr": 1.0, "sequence_tokens": 32, "windows": "all"}
    return StageConfig("s", "diffusion", source=sources, **usual | values)


def opened(config: StageConfig, root: Path, seed: int = 3) -> TextData:
    return TextData(config, TOKENIZER, root, seed, eot_token_id=END)


def sequences(batches: list[PackedBatch]) -> list[tuple[int, ...]]:
    return [
        tuple(batch.token_ids[a:b].tolist())
        for batch in batches
        for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)
    ]


def training_texts(root: Path, names: list[str]) -> list[str]:
    """In file order, read by the standard library alone."""
    found = []
    for name in names:
        data = (root / name).read_bytes()
        lines = (gzip.decompress(data) if name.endswith(".gz") else data).splitlines()
        found += [text for text in (json.loads(line)["text"] for line in lines) if zlib.crc32(text.encode()) % 50]
    return found


def windows_of(root: Path, names: list[str], length: int) -> Counter[Any]:
    """The windows of the training texts, computed without any of the code that is tested."""
    found: Counter[Any] = Counter()
    for text in training_texts(root, names):
        ids = [*TOKENIZER.encode(text, add_special_tokens=False).ids, END]
        found.update(tuple(ids[i : i + length]) for i in range(0, len(ids), length))
    return found


BOTH = SourceConfig("both", ("a.jsonl", "b.jsonl"))


def test_every_window_of_every_document_once_an_epoch(root: Path) -> None:
    data = opened(stage(BOTH), root)
    assert data._windows
    wanted = windows_of(root, ["a.jsonl", "b.jsonl"], 32)
    found: Counter[Any] = Counter()
    for step in range(400):
        found.update(sequences(data.batches(step)))
        (epochs,) = data._windows.epochs(step + 1)
        if step % 50 == 49:
            assert set(found) <= set(wanted)
            for window, times in wanted.items():
                assert int(epochs) * times <= found[window] <= (int(epochs) + 1) * times
    assert epochs > 3


def said_of(config: StageConfig, root: Path) -> tuple[TextData, str]:
    told: list[str] = []
    data = TextData(config, TOKENIZER, root, 3, eot_token_id=END, report=told.append)
    return data, told[-1]


def test_how_often_documents_are_read_whole_is_told(root: Path) -> None:
    data, said = said_of(stage(BOTH, steps=120), root)
    read = sum(b.tokens for step in range(120) for b in data.batches(step))
    times = read / sum(len(w) * n for w, n in windows_of(root, ["a.jsonl", "b.jsonl"], 32).items())
    told = re.fullmatch(r"s: 120 steps read 'both' ([0-9.]+) times", said)
    assert told and times > 3 and float(told[1]) == pytest.approx(times, rel=0.02)


def test_how_often_rows_are_drawn_is_told(root: Path) -> None:
    mixed = SourceConfig("c", ("c.jsonl.gz",), languages={"en": 3.0, "fr": 1.0})
    data, said = said_of(stage(BOTH, mixed, windows="random"), root)
    drawn = Counter(origin.partition(":")[0] for step in range(400) for origin in data.origins(step))
    with gzip.open(root / "c.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if zlib.crc32(row["text"].encode()) % 50]
    held = Counter(row["lang"] for row in rows)
    both = drawn["both"] / len(training_texts(root, ["a.jsonl", "b.jsonl"]))
    english, french = (drawn["c"] * share / held[lang] for share, lang in ((0.75, "en"), (0.25, "fr")))
    assert said == (
        f"s: 400 steps read 'both' {both:.3g} times, 'c' (en) {english:.3g} times, 'c' (fr) {french:.3g} times"
    )


def test_the_windows_of_a_document_make_up_the_document(root: Path) -> None:
    text = sentence(1, 300)
    folder = root / "one"
    write_texts(folder / "a.jsonl", [text])
    data = opened(stage(SourceConfig("one", ("a.jsonl",)), batch=64), folder)
    assert data._windows
    found: list[int] = []
    steps = 0
    while END not in found:
        found += [i for window in data._windows.sequences(steps) for i in window]
        steps += 1
    expected = [*TOKENIZER.encode(text, add_special_tokens=False).ids, END]
    assert found[: len(expected)] == expected and steps > 3


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(4)), seed=st.integers(0, 9), length=st.integers(4, 60), first=st.integers(0, 200))
def test_a_step_is_a_function_of_its_number(order: list[int], seed: int, length: int, first: int) -> None:
    """In any order, by a fresh process or one that ran through: what a resumed run reads is what it would have read."""
    for windows in ("all", "random"):
        config = stage(
            dataclasses.replace(BOTH, weight=2.0),
            SourceConfig("c", ("c.jsonl.gz",), languages={"en": 2.0, "fr": 1.0}, shuffle_megabytes=1),
            sequence_tokens=length,
            windows=windows,
        )
        through, jumping = opened(config, CORPUS[0], seed), opened(config, CORPUS[0], seed)
        expected = {step: sequences(through.batches(step)) for step in range(first, first + 4)}
        for step in order:
            assert sequences(jumping.batches(first + step)) == expected[first + step]
        assert len(set(map(str, expected.values()))) == 4


CORPUS: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _corpus_for_properties(root: Path) -> None:
    CORPUS[:] = [root]


def test_blocks_make_no_difference_to_what_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(census, "STRETCH_BYTES", 500)
    config = stage(dataclasses.replace(BOTH, shuffle_megabytes=1))
    data = opened(config, root)
    assert data._windows
    for stream in data._windows.streams:
        stream.shuffle_bytes = 1500  # a recipe cannot ask for less than a megabyte
    found: Counter[Any] = Counter()
    steps = int(data._windows.streams[0].size / data._windows.bytes_per_step[0]) + 1
    for step in range(steps):
        found.update(sequences(data.batches(step)))
    assert not windows_of(root, ["a.jsonl", "b.jsonl"], 32) - found


def test_steps_are_about_the_size_that_the_recipe_asks_for(root: Path) -> None:
    data = opened(stage(BOTH, batch=1024), root)
    tokens = np.array([sum(b.tokens for b in data.batches(step)) for step in range(200)])
    assert abs(tokens.mean() / 1024 - 1) < 0.05 and tokens.min() > 800 and tokens.max() < 1250
    for batch in data.batches(0):
        assert len(batch) * batch.lengths.max() <= 8192 and batch.lengths.max() <= 32


def test_sources_and_languages_are_mixed_by_weight_in_every_step(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "all")
    letters = {"de": "ä", "fr": "é", "en": "w"}  # tell the languages apart in any window of their texts
    rows = [
        {"text": f"{letter * (i % 7 + 2)} " * (i % 30 + 5), "lang": n}
        for i in range(80)
        for n, letter in letters.items()
    ]
    write_rows(tmp_path / "all" / "d.jsonl.gz", rows)
    config = stage(
        dataclasses.replace(BOTH, weight=3.0),
        SourceConfig("d", ("d.jsonl.gz",), weight=1.0, languages={"de": 3.0, "fr": 1.0}),
        batch=2048,
    )
    data = opened(config, tmp_path / "all")
    tokens: Counter[str] = Counter()
    for step in range(60):
        of_step: Counter[str] = Counter()
        for ids in sequences(data.batches(step)):
            text = TOKENIZER.decode(list(ids))
            assert "ww" not in text
            of_step["de" if "ä" in text else "fr" if "é" in text else "both"] += len(ids)
        assert set(of_step) == {"both", "de", "fr"}
        tokens += of_step
    shares = {kind: count / tokens.total() for kind, count in tokens.items()}
    assert abs(shares["both"] - 0.75) < 0.04
    assert abs(shares["de"] - 0.1875) < 0.03 and abs(shares["fr"] - 0.0625) < 0.02
    assert data.source_of(5) == "both+d"


def test_random_windows_are_what_they_were_in_memory(root: Path) -> None:
    """The batches of the first recipes, by a rule that holds all texts in memory."""
    config = stage(BOTH, SourceConfig("c", ("c.jsonl.gz",), weight=2.0), windows="random", batch=200)
    data = opened(config, root)
    texts = [training_texts(root, names) for names in (["a.jsonl", "b.jsonl"], ["c.jsonl.gz"])]
    for step in (0, 1, 2, 57, 399):
        choices = schedule([1.0, 2.0], config.steps, data.seed).tolist()
        choice = choices[step]
        start = choices[:step].count(choice) * 7  # ceil(200 / 32) texts a step
        rng = np.random.default_rng((data.seed, step))
        drawn = [texts[choice][i] for i in draw(len(texts[choice]), start, 7, data.seed + choice)]
        expected = []
        for text in drawn:
            ids = TOKENIZER.encode(window(text, 32 * 6, rng), add_special_tokens=False).ids
            expected.append((*ids[:31], END))
        assert sorted(sequences(data.batches(step))) == sorted(expected)
        assert data.source_of(step) == ("both", "c")[choice]
        origins = [origin.rpartition("line ")[2] for origin in data.origins(step)]
        assert len(origins) == 7 and all(n.isdigit() for n in origins)


def test_origins_name_the_lines_that_a_step_read(root: Path) -> None:
    data = opened(stage(BOTH), root)
    for step in (0, 3):
        read = " ".join(TOKENIZER.decode(list(s)) for s in sequences(data.batches(step)))
        texts = []
        for origin in data.origins(step):
            source, _, place = origin.partition(": ")
            path, _, number = place.partition(", line ")
            assert source == "both"
            texts.append(Path(path).read_text(encoding="utf-8").splitlines()[int(number) - 1])
        known = {word for text in texts for word in text.split('"')[3].split()}
        assert {w for w in read.split() if w.isdigit() and len(w) > 3} <= known and texts


def test_the_fingerprint_follows_the_data(root: Path, tmp_path: Path) -> None:
    config = stage(BOTH, SourceConfig("c", ("c.jsonl.gz",), languages={"en": 1.0}))
    before = opened(config, root).fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert opened(config, moved).fingerprint == before
    text = (moved / "a.jsonl").read_text(encoding="utf-8")
    (moved / "a.jsonl").write_text(text.replace("fox", "cow"), encoding="utf-8")
    assert opened(config, moved).fingerprint != before


def test_a_text_without_tokens_gives_no_window(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    windows = DocumentWindows([], tokenizer, batch=1, window=8, end_token_id=END)
    assert list(windows._cut(Text("\x00", tmp_path, 1, 0, 1), 1)) == []
    assert list(windows._cut(Text("x" * 30, tmp_path, 1, 100, 30), 17)) == [(0, 8, 105), (8, 16, 115), (16, 24, 125)]


@given(st.text("ab \n\t", max_size=60), st.integers(1, 20))
def test_pieces_make_up_the_text(text: str, most: int) -> None:
    found = pieces(text, most)
    assert "".join(found) == text and all(0 < len(p) <= most for p in found[:-1]) and len(found[-1]) <= most


def test_long_texts_are_tokenized_in_pieces_that_change_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [sequences(opened(stage(BOTH), root).batches(step)) for step in range(20)]
    monkeypatch.setattr("diffembed.training.windows._PIECE", 50)
    data = opened(stage(BOTH), root)
    assert [sequences(data.batches(step)) for step in range(20)] == expected


def test_counts_are_kept_in_the_cache_folder(root: Path, tmp_path: Path) -> None:
    data = TextData(stage(BOTH), TOKENIZER, root, 3, eot_token_id=END, cache=tmp_path / "counts")
    again = TextData(stage(BOTH), TOKENIZER, root, 3, eot_token_id=END, cache=tmp_path / "counts")
    assert data.fingerprint == again.fingerprint


def test_an_empty_source_is_named(tmp_path: Path) -> None:
    write_texts(tmp_path / "a.jsonl", [])
    with pytest.raises(InputError, match="source 'news' has no text"):
        opened(stage(SourceConfig("news", ("a.jsonl",))), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'paths = ["texts.jsonl"]',
            'paths = ["texts.jsonl"]\nlanguages = 3',
            "'stage.source.languages' must be a table",
        ),
        (
            'paths = ["texts.jsonl"]',
            'paths = ["texts.jsonl"]\nlanguages = {en = "x"}',
            "languages.en' is 'x'; expected float",
        ),
        ('paths = ["texts.jsonl"]', 'paths = ["texts.jsonl"]\nlanguages = {en = 0}', "weights above 0"),
        (
            'paths = ["texts.jsonl"]',
            'paths = ["texts.jsonl"]\nshuffle_megabytes = 0',
            "shuffle_megabytes = 0; it must be at least 1",
        ),
        ('kind = "pairs"', 'kind = "pairs"\nlanguages = {en = 1}', "languages are for text, spans and rows"),
        ('kind = "pair"', 'kind = "pair"\nwindows = "all"', "windows is for stages that model language"),
        ('kind = "causal"', 'kind = "causal"\nwindows = "some"', "expected one of 'random', 'all'"),
        (
            "sequence_tokens = 32\n[[stage.source]]\n",
            'sequence_tokens = 32\nwindows = "all"\n[[stage.source]]\nbatch = 64\n',
            "use weight",
        ),
    ],
)
def test_mistakes_in_a_recipe_are_named(recipe_path: Path, old: str, new: str, message: str) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    assert old in text
    recipe_path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_path)


def test_languages_are_read_from_a_recipe(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    new = 'paths = ["texts.jsonl"]\nlanguages = {en = 3, de = 1.5}'
    recipe_path.write_text(text.replace('paths = ["texts.jsonl"]', new, 1), encoding="utf-8")
    recipe = read_recipe(recipe_path)
    assert recipe.stage[0].source[0].languages == {"en": 3.0, "de": 1.5}
    assert recipe.fingerprint(recipe.stage[0])
