"""Exact search and reports: against a plain sort, ties, exclusions, chunks, cut texts; MiniLM by its own evaluator."""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffembed.evaluation.ranking as ranking
from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.evaluation import RetrievalTask, evaluate_bm25, evaluate_encoder, evaluate_retrieval, load_beir
from diffembed.evaluation.baselines import Bm25, SentenceTransformersEncoder, words
from diffembed.evaluation.ranking import search
from diffembed.vectors.embeddings import Embeddings, EncodeOptions, VectorDtype
from diffembed.vectors.similarity import similarity

WIDTH = 256  # wide enough that the hashes of these few words differ


class BagOfWords:
    """A fake encoder: a text's vector counts its words' hashes; ten words are its limit. Notes what it was given."""

    model_id = "bag"

    def __init__(self, contextual: bool = False) -> None:
        self.contextual = contextual
        self.asked: list[tuple[str, list[Any]]] = []

    def vectors(
        self,
        texts: Sequence[str],
        *,
        dtype: VectorDtype = "float32",
        dims: int | None = None,
        truncate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Embeddings:
        assert all(text.strip() for text in texts), "an empty text was given to the encoder"
        values = np.zeros((len(texts), WIDTH), np.float32)
        cut = []
        for row, text in enumerate(texts):
            found = words(text)
            if len(found) > 10:
                assert truncate
                cut.append(row)
            for word in found[:10]:
                values[row, zlib.crc32(word.encode()) % WIDTH] += 1
        values = values[:, : dims or WIDTH]
        tokens = sum(min(10, len(words(text))) for text in texts)
        if dtype == "int8":
            return Embeddings(np.rint(values * 10).astype(np.int8), "int8", values.shape[1], tokens, tuple(cut))
        if dtype == "binary":
            bits = np.packbits(values > 0, axis=1, bitorder="little")
            return Embeddings(bits, "binary", values.shape[1], tokens, tuple(cut))
        return Embeddings(values, "float32", values.shape[1], tokens, tuple(cut))

    def encode_queries(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("queries", list(texts)))
        return self.vectors(texts, **options)

    def encode_documents(self, texts: Sequence[str], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("documents", list(texts)))
        if progress := options.get("progress"):
            progress(len(texts), len(texts))
        return self.vectors(texts, **options)

    def encode_chunks(self, documents: Sequence[Sequence[str]], **options: Unpack[EncodeOptions]) -> Embeddings:
        self.asked.append(("chunks", [list(document) for document in documents]))
        flat = self.vectors([chunk for document in documents for chunk in document], **options)
        return replace(flat, document_offsets=np.cumsum([0, *map(len, documents)]))


TASK = RetrievalTask(
    name="zoo",
    document_ids=("d1", "d2", "d3", "d4", "d5"),
    texts=("cats sleep all day", "dogs bark at night", "", "birds sing in the morning", "cats and dogs fight"),
    queries={"q1": "sleeping cats sleep", "q2": "what do dogs do at night", "q3": "who can sing"},
    qrels={"q1": {"d1": 2, "d5": 1}, "q2": {"d2": 1}, "q3": {"d4": 1}},
    unjudged=4,
)
CHUNKED = replace(TASK, doc_ids=("a", "b", "b", "b", "a"), chunk_idx=(1, 2, 0, 1, 0))


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_report(dtype: VectorDtype) -> None:
    seen: list[tuple[int, int]] = []
    encoder = BagOfWords()
    report = evaluate_encoder(TASK, encoder, dtype=dtype, split="dev", progress=lambda *at: seen.append(at))
    assert report.scores["recall@100"] == 1
    assert report.scores["mrr@10"] == 1
    assert (report.data, report.model, report.split, report.dtype, report.dims) == ("zoo", "bag", "dev", dtype, WIDTH)
    assert (report.queries, report.documents, report.empty_documents, report.unjudged_queries) == (3, 5, 1, 4)
    assert report.tokens == 17 + 12
    assert report.truncated == 0
    assert report.tokens_per_second > 0
    assert report.seconds >= report.encode_seconds > 0
    assert seen == [(4, 4)]
    assert json.loads(report.to_json()) == report.to_dict()
    assert [kind for kind, _ in encoder.asked] == ["queries", "documents"]


def test_int8_queries_search_binary_documents() -> None:
    """Scores by hand: int8 bag-of-words counts against the signs of the documents' counts."""
    encoder = BagOfWords()
    report = evaluate_encoder(TASK, encoder, dtype="binary", query_dtype="int8")
    assert (report.dtype, report.query_dtype) == ("binary", "int8")
    queries = encoder.encode_queries(list(TASK.queries.values()), dtype="int8")
    kept = [0, 1, 3, 4]
    documents = encoder.encode_documents([TASK.texts[i] for i in kept], dtype="binary")
    run = search(TASK, queries, documents, kept)
    signs = np.unpackbits(documents.values, axis=1, count=documents.dims, bitorder="little") * 2.0 - 1.0
    wanted = queries.values.astype(float) @ signs.T / np.linalg.norm(queries.values.astype(float), axis=1)[:, None]
    wanted /= documents.dims**0.5
    for row, query in enumerate(TASK.queries):
        for column, document in enumerate(kept):
            assert run[query][TASK.document_ids[document]] == pytest.approx(wanted[row, column], abs=1e-6)
    np.testing.assert_allclose(similarity(queries, documents), wanted, atol=1e-6)
    with pytest.raises(InputError, match="binary queries cannot search int8 documents"):
        evaluate_encoder(TASK, encoder, dtype="int8", query_dtype="binary")


def test_contextual_encoders_get_whole_documents_in_order() -> None:
    encoder = BagOfWords(contextual=True)
    report = evaluate_encoder(CHUNKED, encoder)
    assert encoder.asked[1] == (
        "chunks",
        [["cats and dogs fight", "cats sleep all day"], ["birds sing in the morning", "dogs bark at night"]],
    )
    assert report.contextual
    # This fake encodes chunks singly, so each vector must come back to its own row: the scores are the same.
    assert report.scores == evaluate_encoder(TASK, BagOfWords()).scores
    plain = BagOfWords()
    assert not evaluate_encoder(CHUNKED, plain).contextual
    assert plain.asked[1][0] == "documents"


def test_cut_inputs_are_counted() -> None:
    long = replace(TASK, texts=("cats " * 20, *TASK.texts[1:]), queries={**TASK.queries, "q1": "why " * 11})
    report = evaluate_encoder(long, BagOfWords())
    assert (report.truncated, report.truncated_queries, report.truncated_documents) == (2, 1, 1)


def test_excluded_pairs_are_not_in_the_ranking() -> None:
    task = replace(TASK, excluded={"q1": frozenset({"d5", "d3"})}, qrels={**TASK.qrels, "q1": {"d1": 1}})
    encoder = BagOfWords()
    queries, documents = (
        encoder.encode_queries(list(task.queries.values())),
        encoder.encode_documents([text or "-" for text in task.texts]),
    )
    run = search(task, queries, documents)
    assert set(run["q1"]) == {"d1", "d2", "d4"}
    assert set(run["q2"]) == set(task.document_ids)
    assert evaluate_encoder(task, encoder).excluded_pairs == 2
    assert evaluate_bm25(task).scores["recall@1"] == 1


def test_an_empty_corpus_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="every document of zoo is empty"):
        evaluate_encoder(replace(TASK, texts=("", " ", "", "\n", "")), BagOfWords())


def embeddings(values: np.ndarray[Any, Any], dtype: VectorDtype) -> Embeddings:
    if dtype == "binary":
        return Embeddings(np.packbits(values > 0, axis=1, bitorder="little"), "binary", values.shape[1])
    return Embeddings(values.astype(dtype), dtype, values.shape[1])


def search_task(queries: int, documents: int, excluded: dict[str, frozenset[str]]) -> RetrievalTask:
    return RetrievalTask(
        name="random",
        # Ids whose order as text is neither their row order nor their order as numbers.
        document_ids=tuple(f"d{(row * 7919) % 1000}" for row in range(documents)),
        texts=("text",) * documents,
        queries={f"q{i}": "query" for i in range(queries)},
        qrels={},
        excluded=excluded,
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(["float32", "int8", "binary"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 60)),
    top=st.integers(1, 12),
    blocks=st.tuples(st.integers(1, 70), st.integers(1, 10)),
)
def test_search_is_a_full_sort(
    seed: int, dtype: VectorDtype, shape: tuple[int, int], top: int, blocks: tuple[int, int]
) -> None:
    """Against sorting all cosines by (score, id), whatever the blocks. Few distinct values make ties common."""
    random = np.random.default_rng(seed)
    queries = embeddings(random.integers(-1, 2, (shape[0], 8)).astype(np.int8), dtype)
    documents = embeddings(random.integers(-1, 2, (shape[1], 8)).astype(np.int8), dtype)
    excluded = {f"q{i}": frozenset({f"d{(i * 7919) % 1000}"}) for i in range(0, shape[0], 2)}
    task = search_task(*shape, excluded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_DOCUMENT_BLOCK", blocks[0])
        patch.setattr(ranking, "_QUERY_BLOCK", blocks[1])
        run = search(task, queries, documents, top=top)

    def unpacked(vectors: Embeddings) -> np.ndarray[Any, Any]:
        if vectors.dtype != "binary":
            return vectors.values.astype(np.float64)
        return np.unpackbits(vectors.values, axis=1, count=vectors.dims, bitorder="little") * 2.0 - 1

    left, right = unpacked(queries), unpacked(documents)
    norms = np.maximum(np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)[None, :], 1e-9)
    cosines = np.round((left @ right.T) / norms, 5)
    for row, (query, found) in enumerate(run.items()):
        pairs = [
            (float(cosines[row, column]), document)
            for column, document in enumerate(task.document_ids)
            if document not in excluded.get(query, ())
        ]
        expected = sorted(pairs, reverse=True)[:top]
        assert [round(score, 5) for score in found.values()] == pytest.approx([score for score, _ in expected])
        assert list(found) == [document for _, document in expected]


def test_packed_bits_rank_by_hamming_distance() -> None:
    """13 of 16 bits are used: padding bits of the last byte must not count."""
    random = np.random.default_rng(3)
    left, right = random.integers(0, 2, (4, 13)), random.integers(0, 2, (50, 13))
    task = search_task(4, 50, {})
    run = search(task, embeddings(left, "binary"), embeddings(right, "binary"))
    for row, found in enumerate(run.values()):
        distance = dict(zip(task.document_ids, (left[row] != right).sum(axis=1).tolist(), strict=True))
        assert found == pytest.approx({document: 1 - 2 * distance[document] / 13 for document in found})
        assert len(found) == 50


def test_zero_vectors_score_zero() -> None:
    task = search_task(1, 2, {})
    run = search(task, embeddings(np.zeros((1, 8)), "int8"), embeddings(np.eye(2, 8), "int8"))
    assert list(run["q0"].values()) == [0, 0]


def test_words() -> None:
    assert words("Don't PANIC: naïve café_42 x") == ["don", "t", "panic", "naïve", "café", "42", "x"]
    assert words("हिन्दी में") == ["हिन्दी", "में"]  # a Hindi word keeps its vowel signs
    assert words("ความรู้") == ["คว", "วา", "าม", "มร", "รู", "ู้"]
    assert words("검색 엔진") == ["검색", "엔진"]
    assert words("東京タワー高さ333m") == ["東京", "京タ", "タワ", "ワー", "ー高", "高さ", "333m"]
    assert words("水") == ["水"]
    assert words(" \n") == []


def test_bm25_by_hand() -> None:
    """Lucene's formula: idf = ln(1 + (N - n + 0.5) / (n + 0.5)), tf = f / (f + k1 (1 - b + b |d| / mean |d|))."""
    index = Bm25(["cat cat dog", "dog", "bird bird"])
    assert index.tokens == 6
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 0.9 * (1 - 0.4 + 0.4 * 3 / 2))
    assert index.scores("Cat!") == pytest.approx([expected, 0, 0])
    assert index.scores("fish") == pytest.approx([0, 0, 0])
    assert index.scores("?") == pytest.approx([0, 0, 0])
    assert Bm25(["", "?"]).scores("cat") == pytest.approx([0, 0])


def test_bm25_report() -> None:
    report = evaluate_bm25(TASK, split="train")
    assert report.scores["recall@1"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert (report.model, report.dtype, report.dims, report.tokens) == ("bm25", "none", 0, 17)
    # Nothing in common, nothing found.
    nothing = evaluate_bm25(replace(TASK, queries=dict.fromkeys(TASK.queries, "fish")))
    assert set(nothing.scores.values()) == {0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder of real sentences: eight topics, a question each."""
    topics = {
        "photosynthesis": ("Plants turn sunlight into sugar in their leaves.", "how do leaves make food from light"),
        "volcano": ("Molten rock rises and bursts through the crust.", "why does lava come out of a mountain"),
        "bread": ("Yeast makes the dough rise before it is baked.", "what makes a loaf fluffy"),
        "chess": ("The king is in check and cannot escape.", "when does a board game end with checkmate"),
        "tides": ("The moon pulls the water of the seas twice a day.", "why does the ocean rise and fall"),
        "bees": ("Foragers dance to tell the hive where flowers are.", "how do insects share a place of food"),
        "bridge": ("Steel cables carry the deck between two towers.", "what holds up a suspended road"),
        "vaccine": ("A harmless part of a virus teaches the immune system.", "how does a shot protect from illness"),
    }
    corpus = [{"_id": f"d-{name}", "title": name, "text": text} for name, (text, _) in topics.items()]
    queries = [{"_id": f"q-{name}", "text": question} for name, (_, question) in topics.items()]
    for stem, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    judged = [f"q-{name}\td-{name}\t1" for name in topics] + ["q-volcano\td-bridge\t1", "q-bees\td-bread\t1"]
    (tmp_path / "qrels.tsv").write_text("\n".join(judged), encoding="utf-8")
    return tmp_path


def test_evaluate_retrieval_with_bm25(folder: Path) -> None:
    report = evaluate_retrieval(folder, model="bm25")
    assert report.queries == 8
    assert 0 < report.scores["ndcg@10"] < 1
    with pytest.raises(InputError, match="bm25 has no vectors"):
        evaluate_retrieval(folder, model="bm25", dims=64)


def test_minilm_agrees_with_sentence_transformers_own_evaluator(folder: Path, minilm_source: Path) -> None:
    from sentence_transformers import SentenceTransformer

    try:  # where it has lived since version 6
        evaluation = importlib.import_module("sentence_transformers.sentence_transformer.evaluation")
    except ImportError:
        evaluation = importlib.import_module("sentence_transformers.evaluation")
    report = evaluate_retrieval(folder, model=f"st:{minilm_source}")
    assert (report.dtype, report.dims, report.truncated) == ("float32", 384, 0)
    task = load_beir(folder)
    theirs = evaluation.InformationRetrievalEvaluator(
        dict(task.queries),
        dict(zip(task.document_ids, task.texts, strict=True)),
        {query: set(gains) for query, gains in task.qrels.items()},
        accuracy_at_k=[1],
        precision_recall_at_k=[1, 10],
        map_at_k=[10],
        show_progress_bar=False,
    )(SentenceTransformer(str(minilm_source)))
    ours = {"ndcg@10": report.scores["ndcg@10"], "mrr@10": report.scores["mrr@10"]}
    assert ours == pytest.approx({"ndcg@10": theirs["cosine_ndcg@10"], "mrr@10": theirs["cosine_mrr@10"]})
    assert report.scores["recall@1"] == pytest.approx(theirs["cosine_recall@1"])
    assert 0.5 < report.scores["ndcg@10"] < 1  # a set that is neither hopeless nor trivial tells more


def test_sentence_transformers_wrapper(minilm_source: Path) -> None:
    encoder = SentenceTransformersEncoder(str(minilm_source))
    texts = ["short", "word " * 400, "a middle one"]
    with pytest.raises(InputError, match="text 1 has 402 tokens, more than the 256"):
        encoder.encode_documents(texts)
    vectors = encoder.encode_documents(texts, truncate=True)
    assert vectors.truncated == (1,)
    assert vectors.tokens == 3 + 256 + 5
    assert vectors.values == pytest.approx(encoder._model.encode(texts), abs=1e-5)
    narrow = encoder.encode_queries(texts[:1], dims=64)
    assert narrow.values == pytest.approx(vectors.values[:1, :64], abs=1e-5)
    chunks = encoder.encode_chunks([["short"], ["a middle one", "word " * 400]], truncate=True)
    assert chunks.document_offsets is not None
    assert chunks.document_offsets.tolist() == [0, 1, 3]
    assert chunks.truncated == (1,)
    with pytest.raises(InputError, match="float32 vectors, not int8"):
        encoder.encode_queries(["a"], dtype="int8")
    with pytest.raises(InputError, match="384 dimensions, not 500"):
        encoder.encode_queries(["a"], dims=500)


def test_models_that_cannot_be_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        evaluate_retrieval(folder, model="st:./nowhere")
    empty = folder / "model"
    empty.mkdir()
    with pytest.raises(ModelError, match="cannot load") as caught:
        evaluate_retrieval(folder, model=f"st:{empty}")
    assert "\n" not in str(caught.value)
    for package, model in (("bm25s", "bm25"), ("sentence_transformers", "st:any"), ("pytrec_eval", "bm25")):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=r"pip install 'diffembed\[eval\]'"):
                evaluate_retrieval(folder, model=model)


def test_the_real_encoder_fits_the_protocol(folder: Path, tiny_model_dir: Path) -> None:
    report = evaluate_retrieval(folder, model=str(tiny_model_dir), dims=32)
    assert (report.dtype, report.dims, report.queries, report.documents) == ("int8", 32, 8, 8)
    binary = evaluate_retrieval(folder, model=str(tiny_model_dir), dtype="binary")
    assert binary.dims == 64
