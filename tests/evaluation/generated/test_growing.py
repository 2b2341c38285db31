"""Ranks in a growing corpus are those that a plain sort gives at every size; ties, duplicates, stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation.generated import growing
from diffembed.evaluation.generated.distractors import Vectors
from diffembed.evaluation.generated.growing import Targets, corpus_sizes, ranks_as_it_grows, scattered
from diffembed.evaluation.metrics import trec_scores
from diffembed.evaluation.ranking import search
from diffembed.vectors.embeddings import Embeddings, VectorDtype

QUERIES, JUDGED, DISTRACTORS, DIMS = 7, 20, 2300, 16
Values = npt.NDArray[Any]


def vectors(count: int, dtype: VectorDtype, seed: int) -> Embeddings:
    rng = np.random.default_rng(seed)
    if dtype == "binary":
        return Embeddings(rng.integers(0, 256, (count, DIMS // 8), dtype=np.uint8), dtype, DIMS)
    floats = rng.normal(size=(count, DIMS)).astype(np.float32)
    return Embeddings(floats if dtype == "float32" else np.rint(floats * 1.5).astype(np.int8), dtype, DIMS)


def on_disk(folder: Path, values: Values, name: str = "some") -> Vectors:
    np.save(folder / f"{name}.npy", values)
    return Vectors(name, folder, ((f"{name}.npy",),), len(values), name, name)


def some_targets(dtype: VectorDtype) -> Targets:
    pairs = [(query, document) for query in range(QUERIES) for document in (query, query + 9)]
    excluded = [frozenset({19} if query % 2 else ()) for query in range(QUERIES)]
    return Targets.of(vectors(QUERIES, dtype, 1), vectors(JUDGED, dtype, 2), pairs, excluded)


def recalls(targets: Targets, ranks: npt.NDArray[np.int64], cut: int) -> list[float]:
    """Of every query, at every size."""
    return [
        float((ranks[targets.query_of == query, size] <= cut).mean())
        for size in range(ranks.shape[1])
        for query in range(QUERIES)
    ]


def test_numbers_are_all_different_and_of_the_seed() -> None:
    some = scattered(0, 100_000, 0)
    assert len(np.unique(some)) == 100_000
    assert np.array_equal(scattered(500, 10, 0), some[500:510])
    assert not np.isin(scattered(0, 1000, 1), some).any()
    assert abs(float(np.mean(some < np.uint64(1 << 63))) - 0.5) < 0.01


def test_sizes_are_powers_of_ten_between_the_ends() -> None:
    assert corpus_sizes(20, 2320) == [20, 100, 1000, 2320]
    assert corpus_sizes(1000, 10_000) == [1000, 10_000]
    assert corpus_sizes(999, 1001) == [999, 1000, 1001]


def test_ranks_of_floats_are_those_of_the_exact_search(tmp_path: Path) -> None:
    """Against ``search`` and trec_eval over every corpus by itself."""
    targets, others = some_targets("float32"), vectors(DISTRACTORS, "float32", 3)
    found = ranks_as_it_grows(targets, [on_disk(tmp_path, others.values)], seed=5)
    assert found.sizes == [20, 100, 1000, 2320]
    order = np.argsort(scattered(0, DISTRACTORS, 5))
    expected = []
    for size in found.sizes:
        values = np.concatenate([targets.documents.values, others.values[order[: size - JUDGED]]])
        ids = tuple(f"d{row}" for row in range(size))
        task = RetrievalTask(
            name="all",
            document_ids=ids,
            texts=ids,
            queries={f"q{query}": "?" for query in range(QUERIES)},
            qrels={f"q{query}": {ids[query]: 1, ids[query + 9]: 1} for query in range(QUERIES)},
            excluded={f"q{query}": frozenset({"d19"}) for query in range(1, QUERIES, 2)},
        )
        run = search(task, targets.queries, Embeddings(values, "float32", DIMS), top=1000)
        scores = trec_scores(task.qrels, run, {"recall.10,100"})
        expected.append(
            [(scores[f"q{query}"]["recall_10"], scores[f"q{query}"]["recall_100"]) for query in range(QUERIES)]
        )
    ours = list(zip(recalls(targets, found.ranks, 10), recalls(targets, found.ranks, 100), strict=True))
    assert ours == [pair for at_size in expected for pair in at_size]
    assert found.duplicates == 0


@pytest.mark.parametrize("dtype", ["int8", "binary"])
def test_equal_scores_are_settled_by_lot(dtype: VectorDtype, tmp_path: Path) -> None:
    """Sixteen dimensions give ties by the hundred; a plain sort by score and lot is the reference."""
    targets, others = some_targets(dtype), vectors(DISTRACTORS, dtype, 4)
    found = ranks_as_it_grows(targets, [on_disk(tmp_path, others.values)], seed=2)
    judged_lots, lots = scattered(1 << 62, JUDGED, 3), scattered(0, DISTRACTORS, 3)
    order = np.argsort(scattered(0, DISTRACTORS, 2))
    every = np.arange(DISTRACTORS + JUDGED)
    values = Embeddings(np.concatenate([others.values, targets.documents.values]), dtype, DIMS)
    scores = growing.cosines(targets.queries, slice(0, QUERIES), values, every)
    ties = 0
    for target, (query, document) in enumerate(
        zip(targets.query_of.tolist(), targets.document_of.tolist(), strict=True)
    ):
        own = scores[query, DISTRACTORS + document]
        same = (others.values == targets.documents.values[document]).all(axis=1)
        for column, size in enumerate(found.sizes):
            rank = 1
            for other in range(JUDGED):
                score = scores[query, DISTRACTORS + other]
                if other != document and other not in targets.excluded[query]:
                    rank += bool(score > own or (score == own and judged_lots[other] < judged_lots[document]))
            for other in order[: size - JUDGED].tolist():
                tie = scores[query, other] == own
                ties += bool(tie)
                wins = scores[query, other] > own or (tie and not same[other] and lots[other] < judged_lots[document])
                rank += bool(wins)
            assert found.ranks[target, column] == rank
    assert ties > 10


def test_a_target_in_the_distractors_is_no_competitor(tmp_path: Path) -> None:
    targets, others = some_targets("int8"), vectors(DISTRACTORS, "int8", 3)
    plain = ranks_as_it_grows(targets, [on_disk(tmp_path, others.values)])
    copied = others.values.copy()
    copied[77] = targets.documents.values[0]
    worse = int((growing.cosines(targets.queries, slice(0, 1), others, np.array([77]))[0, 0] > targets.scores[0]).sum())
    again = ranks_as_it_grows(targets, [on_disk(tmp_path, copied, "copied")])
    assert again.duplicates == plain.duplicates + 1
    assert again.ranks[0, -1] == plain.ranks[0, -1] - worse


@pytest.mark.parametrize("block", [1, 3, 64, 500])
def test_a_float_target_in_the_distractors_is_found_whatever_is_beside_it(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products of float32 differ in the last digits with the shape of the block; the copy is a copy all the same."""
    rng = np.random.default_rng(0)
    queries, documents, others = (rng.normal(size=(n, 387)).astype(np.float32) for n in (5, 40, 300))
    others[[7, 100, 299]] = documents[0]
    pairs = [(query, query) for query in range(5)]
    targets = Targets.of(
        Embeddings(queries, "float32", 387), Embeddings(documents, "float32", 387), pairs, [frozenset()] * 5
    )
    monkeypatch.setattr(growing, "_ROWS", block)
    found = ranks_as_it_grows(targets, [on_disk(tmp_path, others)])
    assert found.duplicates == 3
    every = np.concatenate([documents, others])
    scores = (queries @ (every / np.linalg.norm(every, axis=1, keepdims=True)).T).astype(np.float64)
    scores[0, [47, 140, 339]] = -2  # the copies count against the others alone
    assert found.ranks[:, -1].tolist() == [1 + int((scores[q] > scores[q, q] + 1e-7).sum()) for q in range(5)]


def test_queries_with_many_targets_are_compared_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory at once is bounded by targets too: some sets have dozens for each query."""
    monkeypatch.setattr(growing, "_QUERIES", 4)
    query_of = np.array([0, 0, 0, 1, 1, 3, 4, 4, 4, 4, 4, 4, 5])
    parts = [(rows.start, rows.stop, query_of[members].tolist()) for rows, members in growing._slices(query_of, 8)]
    assert parts == [(0, 1, [0] * 3), (1, 4, [1, 1, 3]), (4, 5, [4] * 6), (5, 8, [5])]


def test_many_sources_are_one_corpus(tmp_path: Path) -> None:
    targets, others = some_targets("int8"), vectors(DISTRACTORS, "int8", 3)
    one = ranks_as_it_grows(targets, [on_disk(tmp_path, others.values)])
    cuts = np.split(others.values, [5, 900, 901])
    several = ranks_as_it_grows(targets, [on_disk(tmp_path, part, f"part{i}") for i, part in enumerate(cuts)])
    assert np.array_equal(one.ranks, several.ranks)


def test_small_blocks_give_the_same_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, source = some_targets("binary"), on_disk(tmp_path, vectors(DISTRACTORS, "binary", 3).values)
    whole = ranks_as_it_grows(targets, [source])
    for name, size in (("_QUERIES", 3), ("_ROWS", 64), ("_TIES", 5), ("_DRAWN", 100)):
        monkeypatch.setattr(growing, name, size)
    blocks = ranks_as_it_grows(
        Targets.of(
            targets.queries,
            targets.documents,
            list(zip(targets.query_of.tolist(), targets.document_of.tolist(), strict=True)),
            targets.excluded,
        ),
        [source],
    )
    assert np.array_equal(whole.ranks, blocks.ranks)
    assert whole.duplicates == blocks.duplicates


def test_a_stopped_search_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    targets, values = some_targets("int8"), vectors(DISTRACTORS, "int8", 3).values
    sources = [on_disk(tmp_path, part, f"part{i}") for i, part in enumerate(np.split(values, 4))]
    expected = ranks_as_it_grows(targets, sources, seed=1)
    monkeypatch.setattr(growing, "_SAVE_SECONDS", 0.0)
    added: list[int] = []
    add = growing._Search.add

    def stop(search: Any, block: Values, first: int, name: str) -> None:
        if first > 1200:
            raise KeyboardInterrupt
        added.append(first)
        add(search, block, first, name)

    monkeypatch.setattr(growing._Search, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work")
    monkeypatch.setattr(growing._Search, "add", lambda s, b, first, n: (added.append(first), add(s, b, first, n))[1])
    found = ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work")
    assert np.array_equal(found.ranks, expected.ranks)
    assert added == [0, 575, 1150, 1725]
    # Other blocks than those of the search that was stopped: what is known of one is not compared again.
    for file in (tmp_path / "work").glob("search-*.npz"):
        file.unlink()
    monkeypatch.setattr(growing._Search, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work")
    monkeypatch.setattr(growing._Search, "add", add)
    monkeypatch.setattr(growing, "_ROWS", 200)
    assert np.array_equal(ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work").ranks, expected.ranks)
    seen: list[tuple[int, int]] = []
    ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work", progress=lambda *at: seen.append(at))
    assert seen == []
    ranks_as_it_grows(targets, sources, seed=2, state=tmp_path / "work", progress=lambda *at: seen.append(at))
    assert seen[-1] == (DISTRACTORS, DISTRACTORS)
    for file in (tmp_path / "work").glob("search-*.npz"):
        file.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(InputError, match="remove it, and the search begins again"):
        ranks_as_it_grows(targets, sources, seed=1, state=tmp_path / "work")


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    values = vectors(50, "float32", 1).values
    values[7, 3] = np.nan
    with pytest.raises(InputError, match="bad has a vector with a value that is not finite"):
        ranks_as_it_grows(some_targets("float32"), [on_disk(tmp_path, values, "bad")])
    with pytest.raises(InputError, match="no distractors"):
        ranks_as_it_grows(some_targets("float32"), [])
