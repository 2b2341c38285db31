"""A growing corpus: ranks as a plain sort gives them at every size; stops, duplicates, what may be a distractor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.evaluation.word_encoder import WordEncoder, counts

from diffembed.bulk import encode_folder
from diffembed.data.beir import RetrievalTask, write_beir
from diffembed.encoder import Encoder
from diffembed.errors import InputError
from diffembed.evaluation.generated import growing
from diffembed.evaluation.generated.distractors import Vectors, distractors
from diffembed.evaluation.generated.growing import Targets, corpus_sizes, ranks_as_it_grows, scattered
from diffembed.evaluation.generated.scale import evaluate_scale
from diffembed.evaluation.metrics import trec_scores
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.ranking import search
from diffembed.evaluation.results import ResultFolder
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


# Sets and distractors on disk


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A judged set; the fourth document has no text, the third is left out for the second query."""
    task = RetrievalTask(
        name="zoo",
        document_ids=("a", "b", "c", "d"),
        texts=("cats sleep all day long", "dogs bark at night", "dogs bark at noon", " "),
        queries={"q1": "when do cats sleep", "q2": "when do dogs bark", "q3": "nothing at all"},
        qrels={"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"d": 1, "a": 1}},
        excluded={"q2": frozenset({"c"})},
    )
    write_beir(tmp_path / "zoo", task)
    return tmp_path / "zoo"


def passages(count: int) -> list[str]:
    return [f"passage {number} is about nothing and {number % 7} things more" for number in range(count)]


def test_recall_falls_as_the_corpus_grows(zoo: Path, tmp_path: Path) -> None:
    """Twelve passages that are closer to q1 than its document, for a model that counts words."""
    near = ["when do cats sleep"] * 12
    values = np.array([counts(text) for text in (*passages(188), *near)], np.float32)
    np.save(tmp_path / "far.npy", values)
    ranker = ranker_of("words", WordEncoder(), dtype="float32")
    folder = ResultFolder(tmp_path / "results")
    result, kept = evaluate_scale(ranker, [zoo], [tmp_path / "far.npy"], results=folder)
    assert not kept
    at = {group.value: group.scores for group in result.groups}
    assert list(at) == ["3", "10", "100", "203"]
    assert at["3"] == {
        "recall@10": pytest.approx(2.5 / 3),
        "recall@100": pytest.approx(2.5 / 3),
        "recall@1000": pytest.approx(2.5 / 3),
    }
    assert at["203"]["recall@10"] == pytest.approx(1.5 / 3)
    assert at["203"]["recall@100"] == pytest.approx(2.5 / 3)
    assert result.scores == at["203"]
    assert result.by_query["q1"] == {"recall@10": 0, "recall@100": 1, "recall@1000": 1}
    assert result.by_query["q3"]["recall@1000"] == 0.5  # its other document has no text
    assert (result.main, result.settings["documents"], result.counts["queries"]) == ("recall@100", 203, 3)
    assert evaluate_scale(ranker, [zoo], [tmp_path / "far.npy"], results=folder) == (
        folder.find("scale", "zoo", "words", ranker.revision, result.settings),
        True,
    )
    assert not evaluate_scale(ranker, [zoo], [tmp_path / "far.npy"], results=folder, seed=1)[1]


def test_texts_are_encoded_once_and_scored_as_one_corpus(
    zoo: Path, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest size is a plain retrieval task over everything, the smallest the set by itself."""
    texts = passages(150)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("\n".join(texts[:90]) + "\n\n", encoding="utf-8")
    rows = "".join(json.dumps({"_id": str(number), "text": text}) + "\n" for number, text in enumerate(texts[90:]))
    (tmp_path / "more" / "b.jsonl").write_text(rows, encoding="utf-8")
    ranker = load_ranker(str(tiny_model_dir))
    result, _ = evaluate_scale(ranker, [zoo], [tmp_path / "more"], work=tmp_path / "work")
    assert result.counts["distractors_left_out"] == 1  # the empty line
    assert [group.value for group in result.groups] == ["3", "10", "100", "153"]
    ids = ("a", "b", "c", *(f"x{number}" for number in range(150)))
    everything = RetrievalTask(
        name="all",
        document_ids=ids,
        texts=("cats sleep all day long", "dogs bark at night", "dogs bark at noon", *texts),
        queries={"q1": "when do cats sleep", "q2": "when do dogs bark"},
        qrels={"q1": {"a": 1}, "q2": {"b": 1}},
        excluded={"q2": frozenset({"c"})},
    )
    run = replace(ranker, settings=ranker.settings | {"contextual": False}).rank(everything).run
    for query, document in (("q1", "a"), ("q2", "b")):
        rank = list(run[query]).index(document) + 1 if document in run[query] else 101
        assert result.by_query[query]["recall@10"] == (rank <= 10)
        assert result.by_query[query]["recall@100"] == (rank <= 100)
    made = sorted((tmp_path / "work" / "vectors").iterdir())
    times = [path.stat().st_mtime_ns for path in made if path.suffix == ".npy"]
    again, _ = evaluate_scale(ranker, [zoo], [tmp_path / "more"], work=tmp_path / "work")
    assert [path.stat().st_mtime_ns for path in made if path.suffix == ".npy"] == times
    assert again.scores == result.scores
    # Vectors that were made by encode --into are taken as they are, and say that they are the same texts.
    elsewhere, _ = evaluate_scale(ranker, [zoo], [tmp_path / "work" / "vectors"])
    assert elsewhere.scores == result.scores
    assert elsewhere.data["sha256"] == result.data["sha256"]


def test_several_sets_are_one_corpus(zoo: Path, tmp_path: Path) -> None:
    other = RetrievalTask("farm", ("a",), ("cows eat grass",), {"q1": "who eats grass"}, {"q1": {"a": 1}})
    write_beir(tmp_path / "sets" / "farm", other)
    np.save(tmp_path / "far.npy", np.array([counts(text) for text in passages(30)], np.float32))
    ranker = ranker_of("words", WordEncoder(), dtype="float32")
    result, _ = evaluate_scale(ranker, [zoo, tmp_path / "sets"], [tmp_path / "far.npy"])
    assert result.task == "zoo+farm"
    assert list(result.by_query) == ["zoo/q1", "zoo/q2", "zoo/q3", "farm/q1"]
    assert result.counts["judged_documents"] == 4
    with pytest.raises(InputError, match="two sets are called zoo"):
        evaluate_scale(ranker, [zoo, zoo], [tmp_path / "far.npy"])


def test_what_may_be_a_distractor(zoo: Path, tmp_path: Path, tiny_model_dir: Path) -> None:
    ranker = load_ranker(str(tiny_model_dir), dims=16)
    values = np.random.default_rng(0).integers(-127, 128, (40, 16), dtype=np.int8)
    np.save(tmp_path / "v.npy", values)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 16)
    pq.write_table(pa.table({"vector": column}), tmp_path / "v.parquet")
    pq.write_table(pa.table({"text": ["one text", "two texts"]}), tmp_path / "t.parquet")
    found = distractors(
        [tmp_path / "v.npy", tmp_path / "v.parquet", tmp_path / "t.parquet"], ranker, 16, tmp_path / "w"
    )
    assert [source.rows for source in found] == [40, 40, 2]
    for source in found[:2]:
        assert np.array_equal(np.concatenate(list(source.pieces())), values)
    # A judged set gives its documents, not its queries.
    assert [source.rows for source in distractors([zoo], ranker, 16, tmp_path / "w2")] == [3]


def test_bad_distractors_are_named(zoo: Path, tmp_path: Path, tiny_model_dir: Path, minilm_source: Path) -> None:
    ranker = load_ranker(str(tiny_model_dir), dims=16)
    np.save(tmp_path / "wide.npy", np.zeros((4, 17), np.int8))
    np.save(tmp_path / "float.npy", np.zeros((4, 16), np.float32))
    (tmp_path / "t.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "empty").mkdir()
    encode_folder(tmp_path / "t.txt", tmp_path / "float", model=str(tiny_model_dir), dims=16)
    for place, said in (
        ("wide.npy", "int8 of shape .rows, 17.; int8 vectors of 16 dims"),
        ("float.npy", "float32 of shape"),
        ("t.txt", "--work DIR"),
        ("cut.npy", "cannot be read as vectors"),
        ("empty", "neither texts"),
        ("gone", "does not exist"),
        ("float", "holds float32 vectors of 16 dims; int8 of 16 are asked for"),
    ):
        with pytest.raises(InputError, match=said):
            distractors([tmp_path / place], ranker, 16)
    foreign = load_ranker(f"st:{minilm_source}")
    with pytest.raises(InputError, match="without st:"):
        distractors([tmp_path / "t.txt"], foreign, 384, tmp_path / "work")
    with pytest.raises(InputError, match="bm25 has no vectors"):
        evaluate_scale(load_ranker("bm25"), [zoo], [tmp_path / "t.txt"])


def test_vectors_of_another_model_are_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    (tmp_path / "t.txt").write_text("one\ntwo\n", encoding="utf-8")
    encode_folder(tmp_path / "t.txt", tmp_path / "made", model=str(tiny_model_dir), dtype="int8")
    ranker = load_ranker(str(tiny_model_dir))
    assert distractors([tmp_path / "made"], ranker, 64)[0].rows == 2

    class Other(Encoder):
        @property
        def fingerprint(self) -> str:  # type: ignore[override]
            return "another"

    assert isinstance(ranker.encoder, Encoder)
    other = Other(ranker.encoder.model_id, ranker.encoder.path, ranker.encoder.config, ranker.encoder.runtime)
    with pytest.raises(InputError, match="encode it again"):
        distractors([tmp_path / "made"], replace(ranker, encoder=other), 64)


def test_pieces_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 million vectors must not be in memory together: only one shard is ever asked for."""
    opened: list[str] = []

    def one(folder: Path, names: list[str]) -> Iterator[Values]:
        opened.append(names[0])
        yield np.ones((3, DIMS), np.int8)

    monkeypatch.setattr("diffembed.evaluation.generated.distractors.read_vectors", one)
    pieces = Vectors("v", tmp_path, (("a",), ("b",)), 6, "", "").pieces()
    next(pieces)
    assert opened == ["a"]
