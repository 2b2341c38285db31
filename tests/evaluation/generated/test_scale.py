"""Judged sets in a growing corpus: recall by size, texts encoded once, what may be a distractor and what is refused."""

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
from diffembed.evaluation.generated.distractors import Vectors, distractors
from diffembed.evaluation.generated.scale import evaluate_scale
from diffembed.evaluation.ranker import load_ranker, ranker_of
from diffembed.evaluation.results import ResultFolder


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
    np.save(tmp_path / "far.npy", values[::-1] + 1)
    assert not evaluate_scale(ranker, [zoo], [tmp_path / "far.npy"], results=folder)[1], "other vectors, as many"


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

    def one(folder: Path, names: list[str]) -> Iterator[npt.NDArray[Any]]:
        opened.append(names[0])
        yield np.ones((3, 16), np.int8)

    monkeypatch.setattr("diffembed.evaluation.generated.distractors.read_vectors", one)
    pieces = Vectors("v", tmp_path, (("a",), ("b",)), 6, "", "").pieces()
    next(pieces)
    assert opened == ["a"]
