"""Folders in BEIR layout: every allowed form gives the same task, every broken one a line number."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from diffembed.data.beir import RetrievalTask
from diffembed.errors import InputError
from diffembed.evaluation import load_beir, split_of

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
CORPUS: list[dict[str, object]] = [
    {"_id": "d1", "title": "Cats", "text": "Cats sleep.", "lang": "en"},
    {"_id": "d2", "title": "", "text": "Dogs bark.", "lang": "en"},
    {"_id": "d3", "text": "Hunde bellen.", "lang": "de", "metadata": {"any": "thing"}},
]
QUERIES: list[dict[str, object]] = [
    {"_id": f"q{i}", "text": f"question {i}", "lang": "en"} for i in (7, 8, 9)
]  # q8 is on the dev side
QRELS = ["q7\td1\t1", "q8\td2\t2", "q8\td3\t0", "q9\td3\t1"]
HEAD = "query-id\tcorpus-id\tscore"


def lines(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def folder(corpus: str = lines(CORPUS), queries: str = lines(QUERIES), **files: str) -> Path:
        """Files by name, with ``__`` for a dot and ``___`` for a folder."""
        contents = {"corpus__jsonl": corpus, "queries__jsonl": queries}
        contents |= files or {"qrels__tsv": "\n".join(QRELS) + "\n"}
        for name, content in contents.items():
            path = tmp_path / name.replace("___", "/").replace("__", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return tmp_path

    return folder


def content(task: RetrievalTask) -> tuple[object, ...]:
    return task.document_ids, task.texts, dict(task.queries), dict(task.qrels)


def test_texts_and_judgements(write: Writer) -> None:
    task = load_beir(write())
    assert task.document_ids == ("d1", "d2", "d3")
    assert task.texts == ("Cats\nCats sleep.", "Dogs bark.", "Hunde bellen.")
    assert task.queries == {"q7": "question 7", "q8": "question 8", "q9": "question 9"}
    assert task.qrels == {"q7": {"d1": 1}, "q8": {"d2": 2}, "q9": {"d3": 1}}
    assert task.document_langs == ("en", "en", "de")
    assert task.doc_ids is None
    assert task.documents() == [[0], [1], [2]]
    assert not task.excluded


@pytest.mark.parametrize(
    "files",
    [
        {"qrels__tsv": "\n".join([HEAD, *QRELS]) + "\n"},
        {"qrels__tsv": "\r\n".join(QRELS)},
        {"qrels__tsv": "\ufeff" + "\n\n".join([HEAD, *QRELS])},
        {"qrels___test__tsv": "\n".join([HEAD, *QRELS[:2]]), "qrels___train__tsv": "\n".join(QRELS[2:])},
        {"qrels__tsv": "\n".join(line + ".0" for line in QRELS)},
    ],
    ids=["header", "crlf", "bom-and-blank-lines", "folder", "decimal-scores"],
)
def test_every_form_of_qrels(write: Writer, files: dict[str, str]) -> None:
    task = load_beir(write(**files))
    assert task.qrels == {"q7": {"d1": 1}, "q8": {"d2": 2}, "q9": {"d3": 1}}


def test_gzip_is_the_same(write: Writer) -> None:
    folder = write()
    plain = content(load_beir(folder))
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert content(load_beir(folder)) == plain


def test_a_line_separator_inside_a_text_is_no_new_line(write: Writer) -> None:
    corpus: list[dict[str, object]] = [{"_id": "d1", "text": "one\u2028two\x85three"}, *CORPUS[1:]]
    assert load_beir(write(corpus=lines(corpus))).texts[0] == "one\u2028two\x85three"


def test_split_is_the_hash_of_the_query_id(write: Writer) -> None:
    folder = write()
    assert list(load_beir(folder, "dev").queries) == ["q8"]
    assert list(load_beir(folder, "train").queries) == ["q7", "q9"]
    assert load_beir(folder, "dev").document_ids == ("d1", "d2", "d3")
    for identifier in ("q1", "é", "8"):
        expected = "dev" if zlib.crc32(identifier.encode()) % 10 == 0 else "train"
        assert split_of(identifier) == expected


def test_split_by_document(write: Writer) -> None:
    """The whole article is on one side: q8 (a dev id) asks about article a, and so does q7 (a train id)."""
    article = next(name for name in "abcdefghijklmnopqrstuvwxyz" if split_of(name) == "dev")
    other = next(name for name in "abcdefghijklmnopqrstuvwxyz" if split_of(name) == "train")
    chunks = [("d1", article), ("d2", article), ("d3", other)]
    corpus: list[dict[str, object]] = [
        {"_id": i, "text": i, "doc_id": doc, "chunk_idx": n} for n, (i, doc) in enumerate(chunks)
    ]
    folder = write(corpus=lines(corpus))
    assert list(load_beir(folder, "dev").queries) == ["q8"]
    assert list(load_beir(folder, "dev", split_by="doc_id").queries) == ["q7", "q8"]
    assert list(load_beir(folder, "train", split_by="doc_id").queries) == ["q9"]


def test_chunks_come_back_in_reading_order(write: Writer) -> None:
    corpus: list[dict[str, object]] = [
        {"_id": "d1", "text": "a1", "doc_id": "a", "chunk_idx": 1},
        {"_id": "d2", "text": "b0", "doc_id": "b", "chunk_idx": 0},
        {"_id": "d3", "text": "a0", "doc_id": "a", "chunk_idx": 0},
        {"_id": "d4", "text": "alone"},
    ]
    task = load_beir(write(corpus=lines(corpus)))
    assert task.doc_ids == ("a", "b", "a", None)
    assert [[task.texts[row] for row in group] for group in task.documents()] == [["a0", "a1"], ["b0"], ["alone"]]


def test_excluded_pairs_leave_the_judgements_too(write: Writer) -> None:
    qrels = "\n".join([*QRELS, "q8\td1\t1"])
    for head in ("", "query-id\tcorpus-id\n"):
        task = load_beir(write(qrels__tsv=qrels, exclude__tsv=f"{head}q8\td1\nq8\td3\n"))
        assert task.excluded == {"q8": {"d1", "d3"}}
        assert task.qrels["q8"] == {"d2": 2}


def test_queries_that_are_documents_do_not_find_themselves(write: Writer) -> None:
    queries: list[dict[str, object]] = [{"_id": "d1", "text": "Cats sleep."}, {"_id": "d2", "text": "Dogs bark."}]
    corpus = lines(CORPUS)
    task = load_beir(write(corpus, lines(queries), qrels__tsv="d1\td3\t1\nd2\td3\t1\n"))
    assert task.excluded == {"d1": {"d1"}, "d2": {"d2"}}
    # One such pair is judged: the ids are alike by chance, or the pair is meant.
    task = load_beir(write(corpus, lines(queries), qrels__tsv="d1\td3\t1\nd2\td2\t1\n"))
    assert not task.excluded
    # One query is not a document.
    queries.append({"_id": "q7", "text": "cats?"})
    assert not load_beir(write(corpus, lines(queries), qrels__tsv="d1\td3\t1\n")).excluded


def test_unjudged_queries_are_counted(write: Writer) -> None:
    task = load_beir(write(qrels__tsv="q7\td1\t1\nq8\td1\t0\n"))
    assert list(task.queries) == ["q7"]
    assert task.unjudged == 2


BAD_LINES = {
    "not-json": ({"corpus": '{"_id": "d1", "text": "a"}\n{"_id": "d2", '}, r"corpus.jsonl, line 2 is not JSON"),
    "no-object": ({"corpus": '["d1"]\n'}, r"corpus.jsonl, line 1 is not a JSON object"),
    "no-id": ({"queries": '{"text": "a"}\n'}, r'queries.jsonl, line 1 has no "_id"'),
    "id-kind": (
        {"corpus": '{"_id": 1.5, "text": "a"}\n'},
        r'line 1: "_id" must be a string or a whole number, not 1.5',
    ),
    "id-tab": ({"corpus": '{"_id": "a\\tb", "text": "a"}\n'}, r'line 1: "_id" must not be empty or hold a tab'),
    "twice": ({"corpus": '{"_id": "d1", "text": "a"}\n' * 2}, r"line 2: the id 'd1' was given before .*line 1\)"),
    "twice-query": ({"queries": '{"_id": "q7", "text": "a"}\n' * 2}, r"line 2: the id 'q7' was given before"),
    "text-kind": ({"corpus": '{"_id": "d1", "text": 3}\n'}, r'line 1: "text" must be a string, not int'),
    "no-text": ({"corpus": '{"_id": "d1"}\n'}, r'line 1: "text" must be a string, not NoneType'),
    "empty-query": ({"queries": '{"_id": "q7", "text": " "}\n'}, r"line 1: the text of query 'q7' is empty"),
    "no-rows": ({"corpus": "\n"}, r"corpus.jsonl holds no rows"),
    "idx-alone": (
        {"corpus": '{"_id": "d1", "text": "a", "chunk_idx": 0}\n'},
        r'line 1: "doc_id" and "chunk_idx" belong',
    ),
    "idx-kind": ({"corpus": '{"_id": "d1", "text": "a", "doc_id": "a", "chunk_idx": "0"}\n'}, r"whole number, not '0'"),
    "idx-twice": (
        {"corpus": "".join(f'{{"_id": "d{i}", "text": "a", "doc_id": "a", "chunk_idx": 0}}\n' for i in (1, 2))},
        r"line 2: chunk 0 of 'a' was given before",
    ),
    "qrels-fields": ({"qrels__tsv": "q7\t0\td1\t1\n"}, r"qrels.tsv, line 1 has 4 fields"),
    "qrels-score": ({"qrels__tsv": "q7\td1\t1\nq8\td2\tmuch\n"}, r"line 2: the score 'much' is not a whole number"),
    "qrels-first": ({"qrels__tsv": "q7\td1\tmuch\n"}, r"line 1: the score 'much' is not a whole number"),
    "qrels-inf": ({"qrels__tsv": "q7\td1\tinf\n"}, r"line 1: the score 'inf' is not a whole number"),
    "qrels-query": ({"qrels__tsv": f"{HEAD}\nq1\td1\t1\n"}, r"line 2 names the id 'q1', .* no row of queries.jsonl"),
    "qrels-doc": ({"qrels__tsv": "q7\td9\t1\n"}, r"line 1 names the id 'd9', .* no row of corpus.jsonl"),
    "qrels-twice": ({"qrels__tsv": "q7\td1\t1\nq7\td1\t2\n"}, r"line 2: query 'q7' and document 'd1' were judged 1"),
    "qrels-both": ({"qrels__tsv": "q7\td1\t1\n", "qrels___dev__tsv": "q7\td1\t1\n"}, r"both qrels.tsv and qrels/"),
    "qrels-none": ({"other__tsv": ""}, r"neither qrels.tsv nor qrels/"),
    "exclude": ({"qrels__tsv": QRELS[0], "exclude__tsv": "q7\td9\n"}, r"exclude.tsv, line 1 names the id 'd9'"),
    "exclude-one": ({"qrels__tsv": QRELS[0], "exclude__tsv": "q7\n"}, r"exclude.tsv, line 1 has one field"),
    "nothing-judged": ({"qrels__tsv": "q7\td1\t0\n"}, r"no judged query in split 'all' \(3 queries"),
}


@pytest.mark.parametrize(("files", "said"), BAD_LINES.values(), ids=BAD_LINES)
def test_bad_lines_are_named(write: Writer, files: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        load_beir(write(**files))
    assert "\n" not in str(caught.value)


def test_missing_and_damaged_files(write: Writer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        load_beir(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither corpus.jsonl nor corpus.jsonl.gz"):
        load_beir(tmp_path)
    folder = write()
    packed = gzip.compress((folder / "corpus.jsonl").read_bytes())
    (folder / "corpus.jsonl.gz").write_bytes(packed[:-9])
    with pytest.raises(InputError, match=r"both corpus.jsonl and corpus.jsonl.gz"):
        load_beir(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus.jsonl.gz cannot be read"):
        load_beir(folder)
    (folder / "corpus.jsonl.gz").unlink()
    (folder / "corpus.jsonl").write_bytes(lines(CORPUS[:1]).encode() + b'{"_id": "d2", "text": "\xff"}\n')
    with pytest.raises(InputError, match=r"corpus.jsonl, line 2 is not UTF-8"):
        load_beir(folder)


def test_unknown_split(write: Writer) -> None:
    with pytest.raises(InputError, match="unknown split 'test'; give one of: all, train, dev"):
        load_beir(write(), "test")  # type: ignore[arg-type]


@pytest.mark.skipif(not DATA.is_dir(), reason="the development data (../shared/data) is not here")
def test_a_real_set() -> None:
    task = load_beir(DATA / "pt-faquad-ctx", "dev")
    assert (len(task.texts), len(task.queries)) == (249, 92)
    assert task.doc_ids is not None
    related = load_beir(DATA / "reason-planetmath", "dev")
    assert related.excluded == {query: {query} for query in related.queries}
