"""The steps of a contrastive stage: functions of their number, one source each, with that source's switches."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import write_beir, write_examples, write_folder, write_rows, write_texts
from tests.training.contrastive_rows import END, TOKENIZER, grouped, pairs, stage_of, triplets, words

from diffembed.data.beir import split_of
from diffembed.data.example_sources import Drawn
from diffembed.data.examples import Grouped, Pair, Question, Triplet
from diffembed.errors import InputError
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive import BatchLoss
from diffembed.training.contrastive_batch import ContrastiveBatch
from diffembed.training.contrastive_data import ContrastiveData


def write_chunks(folder: Path, documents: int = 12) -> Path:
    """A set of chunks: document i is ``i-0 i-1 i-2``, and each chunk has a question."""
    corpus: list[dict[str, Any]] = [
        {"_id": f"{i}-{k}", "doc_id": f"doc{i}", "chunk_idx": k, "text": words(10 * i + k, 4)}
        for i in range(documents)
        for k in range(3)
    ]
    queries = {f"q{row['_id']}": f"which is {row['text'][:4]}" for row in corpus}
    return write_folder(folder, corpus, queries, [(f"q{row['_id']}", row["_id"]) for row in corpus])


def write_sections(folder: Path, documents: int = 12) -> Path:
    """Long documents of four sections, each with one question about the whole."""
    parts = ("Why", "How", "Costs", "History")
    corpus = [
        {"_id": f"s{i}", "text": "\n\n".join(f"# {part}\n\n{words(10 * i + k, 26)}" for k, part in enumerate(parts))}
        for i in range(documents)
    ]
    queries = {f"q{i}": f"What is number {i}?" for i in range(documents)}
    return write_folder(folder, corpus, queries, [(f"q{i}", f"s{i}") for i in range(documents)])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_beir(folder / "set")
    write_chunks(folder / "chunks")
    write_sections(folder / "long")
    write_texts(folder / "texts.jsonl", [words(i, 20 + i % 30) for i in range(60)])
    write_examples(folder / "pairs.jsonl", pairs(23))
    write_examples(folder / "triplets.jsonl.gz", [r for r in triplets(20) if isinstance(r, Triplet) and r.negatives])
    write_examples(folder / "grouped.parquet", [r for r in grouped(17) if isinstance(r, Grouped) and r.chunks[1:]])
    return folder


JUDGED = SourceConfig("judged", ("set",), kind="pairs")
ROWS = SourceConfig("rows", ("pairs.jsonl",), kind="rows")
SPANS = SourceConfig("spans", ("texts.jsonl",), kind="spans", query_tokens=8, document_tokens=24)
GROUPS = SourceConfig("groups", ("chunks",), kind="groups")
SECTIONS = SourceConfig("sections", ("long",), kind="sections", document_tokens=512)
FILES = SourceConfig("files", ("grouped.parquet",), kind="rows", chunk_tokens=(3, 9))
HARD = SourceConfig("hard", ("triplets.jsonl.gz",), kind="rows")
KINDS: dict[str, StageConfig] = {
    "pair": stage_of("pair", steps=60, source=(JUDGED, ROWS, SPANS)),
    "contextual": stage_of("contextual", steps=60, source=(GROUPS, SECTIONS)),
    "free": stage_of("contextual", steps=60, gold=False, source=(FILES, GROUPS, JUDGED)),
    "triplet": stage_of("triplet", steps=60, source=(HARD,)),
}


def opened(stage: StageConfig, root: Path, seed: int = 3, **options: Any) -> ContrastiveData:
    usual: dict[str, Any] = {"end_token_id": END, "mask_token_id": 1, "max_tokens": 512}
    return ContrastiveData(stage, TOKENIZER, root, seed, **usual | options)


def alike(one: ContrastiveBatch, other: ContrastiveBatch) -> bool:
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(ContrastiveBatch)
        if field.name != "scores"
    ) and (one.scores == other.scores)


def read_of(sequence: Any) -> str:
    return TOKENIZER.decode(list(map(int, sequence.token_ids)))


@settings(max_examples=12, deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), seed=st.integers(0, 5), steps=st.permutations([0, 1, 7, 31, 59]))
def test_a_step_is_a_function_of_its_number(kind: str, seed: int, steps: list[int]) -> None:
    """In any order, by one that ran through or one that jumps in: what a resumed run reads is what it would have."""
    through, jumping = (opened(KINDS[kind], ROOT[0], seed) for _ in range(2))
    expected = [through.batch(step) for step in range(60)]
    for step in steps:
        assert alike(jumping.batch(step), expected[step]), step
    assert not any(alike(expected[i], expected[i + 1]) for i in range(59))
    assert not alike(opened(KINDS[kind], ROOT[0], seed + 1).batch(0), expected[0])


ROOT: list[Path] = []


@pytest.fixture(autouse=True, scope="module")
def _root_for_properties(root: Path) -> None:
    ROOT[:] = [root]


def test_a_step_reads_one_source_by_weight(root: Path) -> None:
    sources = (dataclasses.replace(JUDGED, weight=6.0, batch=5), ROWS, dataclasses.replace(SPANS, batch=4))
    stage = stage_of("pair", steps=400, source=sources)
    data = opened(stage, root)
    counts: Counter[str] = Counter()
    for step in range(400):
        batch = data.batch(step)
        assert len(batch.origins) == batch.queries == {"judged": 5, "rows": 8, "spans": 4}[batch.source.name]
        assert batch.source in sources
        places = {"judged": "set: query", "rows": "pairs.jsonl, line", "spans": "texts.jsonl, line"}
        assert all(places[batch.source.name] in origin for origin in batch.origins)
        counts[batch.source.name] += 1
    assert 270 < counts["judged"] < 330 and 30 < counts["rows"] < 70


def test_every_row_once_an_epoch_across_the_turns(root: Path) -> None:
    data = opened(stage_of("pair", steps=400, source=(JUDGED, ROWS)), root)
    drawn = [o for step in range(400) for o in data.batch(step).origins if "pairs.jsonl" in o]
    assert len(drawn) > 23 * 20
    for epoch in range(len(drawn) // 23):
        assert len(set(drawn[23 * epoch : 23 * (epoch + 1)])) == 23


def test_how_often_sources_are_read_is_told(root: Path) -> None:
    told: list[str] = []
    data = opened(KINDS["pair"], root, report=told.append)
    counts = Counter(data.batch(step).source.name for step in range(60))
    sizes = {"judged": len(data.sources[0]), "rows": 23, "spans": len(data.sources[2])}
    times = [f"'{name}' {counts[name] * 8 / sizes[name]:.3g} times" for name in ("judged", "rows", "spans")]
    assert told == [f"s: 60 steps read {', '.join(times)}"]


# Kinds of sources


def test_spans_are_cut_out_of_their_windows(root: Path) -> None:
    removed = Counter[bool]()
    data = opened(stage_of("pair", steps=60, source=(SPANS,)), root)
    lines = [json.loads(line)["text"] for line in (root / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    for step in range(60):
        batch = data.batch(step)
        assert batch.positives.tolist() == batch.gold.tolist() == list(range(8))
        for number in range(8):
            query, document = batch.sequences[number], batch.documents[number]
            asked, ids = list(map(int, query.token_ids)), list(map(int, document.token_ids))
            assert 3 <= len(asked) <= 8 and len(ids) <= 24
            text = lines[int(batch.origins[number].rpartition(" ")[2]) - 1]
            kept = TOKENIZER.decode(ids) in text and TOKENIZER.decode(asked) in TOKENIZER.decode(ids)
            back = [TOKENIZER.decode([*ids[:at], *asked, *ids[at:]]) for at in range(len(ids) + 1)]
            assert kept or any(window in text for window in back)
            removed[not kept] += 1
    assert 0.35 < removed[True] / removed.total() < 0.6
    whole = opened(stage_of("pair", steps=60, source=(dataclasses.replace(SPANS, remove_span=0.0),)), root).batch(3)
    assert all(read_of(q) in read_of(d) for q, d in zip(whole.sequences[:8], whole.documents, strict=True))


def test_groups_are_whole_documents(root: Path) -> None:
    data = opened(stage_of("contextual", steps=60, source=(GROUPS,)), root)
    for step in range(20):
        batch = data.batch(step)
        for number, gold in enumerate(batch.gold.tolist()):
            document = batch.documents[batch.positives[number]]
            assert len(document.spans) == 3
            start, end = document.spans[gold % 3]
            answer = TOKENIZER.decode(list(map(int, document.token_ids[start:end])))
            assert read_of(batch.sequences[number]) == f"which is {answer[:4]}"


def test_sections_ask_for_parts_of_long_documents(root: Path) -> None:
    data = opened(stage_of("contextual", steps=60, source=(SECTIONS,)), root)
    seen = set()
    for step in range(30):
        batch = data.batch(step)
        for number, gold in enumerate(batch.gold.tolist()):
            document = batch.documents[batch.positives[number]]
            at = gold - int(np.flatnonzero(batch.chunk_documents == batch.positives[number])[0])
            start, end = document.spans[at]
            asked = re.fullmatch(r"(\w+): What is number (\d+)\?", read_of(batch.sequences[number]))
            assert asked and TOKENIZER.decode(list(map(int, document.token_ids[start:end]))).startswith(f"# {asked[1]}")
            seen.add(asked[2])
        assert all(re.search(r"long: document s\d+$", origin) for origin in batch.origins)
    assert seen == {str(i) for i in range(12) if split_of(f"q{i}") == "train"}


def test_hard_negatives_reach_the_batch(root: Path) -> None:
    batch = opened(KINDS["triplet"], root).batch(0)
    assert batch.negatives.shape == (8, 4) and (batch.negatives >= 0).any()
    plain = opened(stage_of("pair", steps=60, source=(HARD,)), root).batch(0)
    assert plain.negatives.shape == (8, 0)


@pytest.mark.parametrize(
    "row",
    [
        Triplet("q", "d", ("n",)),
        Grouped(("a", "b", "c"), (Question("q", 1), Question("p", 2))),
    ],
    ids=["triplet", "grouped"],
)
def test_a_source_of_one_row(row: Any, tmp_path: Path) -> None:
    write_examples(tmp_path / "one.jsonl", [row])
    source = SourceConfig("one", ("one.jsonl",), kind="rows")
    stage = stage_of("triplet" if isinstance(row, Triplet) else "contextual", source=(source,))
    data = opened(stage, tmp_path)
    for step in range(stage.steps):
        batch = data.batch(step)
        assert len(batch.origins) == 1 and batch.queries == (1 if isinstance(row, Triplet) else 2)
    assert data.epochs() == [("'one'", 8.0)]
    write_examples(tmp_path / "one.jsonl", [Pair("q", "d")])
    with pytest.raises(InputError, match="source 'one' has a single row .*one.jsonl, line 1"):
        opened(stage, tmp_path)


def test_a_batch_is_no_larger_than_its_source(root: Path) -> None:
    batch = opened(stage_of("pair", batch=100, source=(ROWS,)), root).batch(0)
    assert len(set(batch.origins)) == batch.queries == 23, "no row is its own negative"


# Switches


def test_the_switches_of_a_source_reach_its_steps(root: Path) -> None:
    one = dataclasses.replace(HARD, in_batch=False)
    two = dataclasses.replace(HARD, name="both ways", symmetric=True, instruction="Look")
    stage = stage_of("triplet", steps=40, source=(one, two), query_negatives=True)
    data = opened(stage, root)
    seen = set()
    for step in range(40):
        batch = data.batch(step)
        loss = BatchLoss.of(batch, stage, (16,), progress=0.0, device=torch.device("cpu"))
        assert (loss.in_batch, loss.symmetric) == (batch.source.in_batch, batch.source.symmetric)
        asked = [read_of(s) for s in batch.sequences[: batch.queries]]
        assert all(text.startswith("Look ") == (batch.source is two) for text in asked)
        seen.add(batch.source.name)
    assert seen == {"hard", "both ways"}


def test_limits_are_those_of_the_source_and_the_model(root: Path) -> None:
    lean = dataclasses.replace(ROWS, query_tokens=3, document_tokens=7)
    batch = opened(stage_of("pair", source=(lean,)), root).batch(0)
    assert max(map(len, batch.sequences[:8])) == 3 and max(map(len, batch.documents)) == 7 and batch.cut > 0
    batch = opened(stage_of("pair", source=(ROWS,)), root, max_tokens=5).batch(0)
    assert max(map(len, batch.sequences)) == 5
    spans = opened(stage_of("pair", source=(SPANS,)), root, max_tokens=12).batch(0)
    assert max(map(len, spans.documents)) == 12


# What a run is known by


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    def written(folder: Path, *, text: str = "a", chunk: str = "b", query: str = "c", row: str = "d") -> str:
        write_texts(folder / "texts.jsonl", [f"{text} {i} of some words" for i in range(60)])
        corpus = [{"_id": str(i), "doc_id": "x", "chunk_idx": i, "text": f"{chunk} {i}"} for i in range(3)]
        write_folder(folder / "chunks", corpus, {"q1": query}, [("q1", "1")])
        write_rows(folder / "rows.jsonl", [{"query": f"{row} {i}", "document": f"{i}"} for i in range(3)])
        found = opened(stage_of("pair", source=(SPANS,)), folder).fingerprint
        found += opened(stage_of("contextual", source=(GROUPS,)), folder).fingerprint
        return (
            found
            + opened(stage_of("pair", source=(dataclasses.replace(ROWS, paths=("rows.jsonl",)),)), folder).fingerprint
        )

    same = written(tmp_path / "one")
    assert len(same) == 48 and written(tmp_path / "two") == same, "not where they lie"
    for number, changed in enumerate(({"text": "x"}, {"chunk": "x"}, {"query": "x"}, {"row": "x"})):
        other = written(tmp_path / str(number), **changed)
        parts = [other[i : i + 16] == same[i : i + 16] for i in (0, 16, 32)]
        assert parts == [i != (0, 1, 1, 2)[number] for i in range(3)], changed


def test_stages_of_one_run_read_in_orders_of_their_own(root: Path) -> None:
    one, two = (opened(dataclasses.replace(KINDS["pair"], name=name), root) for name in ("a", "b"))
    assert [one.batch(i).origins for i in range(5)] != [two.batch(i).origins for i in range(5)]


def test_token_counts_of_a_lexical_start(root: Path) -> None:
    counts = opened(KINDS["pair"], root).token_counts(30)
    assert counts.documents == 30 and counts.in_all.shape == (TOKENIZER.get_vocab_size(),)
    assert (counts.in_documents <= counts.in_all).all() and counts.in_documents.max() <= 30
    text = opened(stage_of("pair", source=(ROWS,)), root)
    wanted: Counter[int] = Counter()
    for drawn in text.sources[0].draws(0, 23):
        assert isinstance(drawn, Drawn) and isinstance(drawn.example, Pair)
        wanted.update(TOKENIZER.encode(drawn.example.document, add_special_tokens=False).ids)
    assert {i: n for i, n in enumerate(text.token_counts().in_all.tolist()) if n} == dict(wanted)
