"""Questions for sections: each heading that stands once, each topic; train and dev sides that share nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.corpora import write_folder

from diffembed.data.beir import split_of
from diffembed.data.example_sources import read_examples
from diffembed.data.examples import Grouped
from diffembed.data.sections import load_sections, section_row, section_rows
from diffembed.errors import InputError


def paper(*headings: str, words: int = 30, name: str = "w") -> str:
    """A document with a section of so many words under each heading."""
    return "\n\n".join(
        f"# {heading}\n\n{' '.join(f'{name}{number}x{i}' for i in range(words))}"
        for number, heading in enumerate(headings)
    )


def asked(row: Grouped | None) -> list[tuple[str, int | None]]:
    assert row is not None
    return [(question.query, question.chunk) for question in row.questions]


def test_a_question_for_every_heading_and_topic() -> None:
    row = section_row(
        paper("Why", "How", "Costs"), ["An owl house.", "Where owls live"], document_id="d", language="en"
    )
    assert asked(row) == [
        *(("Why: An owl house.", 0), ("Why: Where owls live", 0)),
        *(("How: An owl house.", 1), ("How: Where owls live", 1)),
        *(("Costs: An owl house.", 2), ("Costs: Where owls live", 2)),
    ]
    assert row and (row.document_id, row.language) == ("d", "en")
    assert all(row.chunks[i].startswith(f"# {name}") for i, name in enumerate(("Why", "How", "Costs")))


def test_a_heading_that_stands_twice_is_not_asked_for() -> None:
    row = section_row(paper("Notes", "How", "NOTES", "Costs"), ["Owls"])
    assert asked(row) == [("How: Owls", 1), ("Costs: Owls", 3)]
    assert section_row(paper("Notes", "Notes", "notes"), ["Owls"]) is None


def test_the_first_piece_of_a_long_section_answers() -> None:
    long = "\n\n".join(" ".join(f"p{i}w{j}" for j in range(40)) for i in range(5))
    text = f"# Why\n\n{long}\n\n{paper('How', 'Costs')}"
    row = section_row(text, ["Owls"], max_words=100)
    assert asked(row) == [("Why: Owls", 0), ("How: Owls", 3), ("Costs: Owls", 4)]
    assert row and " ".join(row.chunks).split() == text.split()


def test_the_first_words_of_a_topic() -> None:
    topic = " ".join(str(i) for i in range(60))
    row = section_row(paper("A", "B", "C"), [f"  {topic}\n"])
    assert asked(row)[0] == (f"A: {' '.join(str(i) for i in range(24))}", 0)


@pytest.mark.parametrize(
    ("text", "topics"),
    [
        (paper("Why", "How"), ["Owls"]),
        (paper("Why", "How", "Costs"), []),
        (" ".join(map(str, range(900))), ["Owls"]),
        ("", ["Owls"]),
    ],
    ids=["two sections", "no topic", "no heading", "blank"],
)
def test_documents_without_questions(text: str, topics: list[str]) -> None:
    assert section_row(text, topics) is None


def write_papers(folder: Path, judged: list[tuple[int, int]], documents: int = 8, **columns: Any) -> Path:
    """Documents d0, d1 ...; pairs of a query's number and a document's."""
    corpus = [
        {"_id": f"d{i}", "text": paper("Why", "How", "Costs", name=f"d{i}n"), **columns} for i in range(documents)
    ]
    queries = {f"q{i}": f"What is {i}?" for i in range(40)}
    return write_folder(folder, corpus, queries, [(f"q{query}", f"d{document}") for query, document in judged])


DEV = next(i for i in range(40) if split_of(f"q{i}") == "dev")
TRAIN = [i for i in range(40) if split_of(f"q{i}") == "train"]


def test_the_side_of_a_document_is_that_of_its_queries(tmp_path: Path) -> None:
    folder = write_papers(tmp_path, [(TRAIN[0], 0), (DEV, 0), (DEV, 1), (TRAIN[1], 2), (TRAIN[0], 2)])
    topics = {
        side: {
            name: sorted({query.split(": ")[1] for query, _ in asked(row)})
            for name, row in section_rows(folder, side=side).items()
        }
        for side in ("all", "train", "dev")
    }
    both = sorted([f"What is {TRAIN[0]}?", f"What is {TRAIN[1]}?"])
    assert topics["train"] == {"d0": [f"What is {TRAIN[0]}?"], "d2": both}
    assert topics["dev"] == {"d1": [f"What is {DEV}?"]}
    assert topics["all"] == {
        "d0": sorted([f"What is {TRAIN[0]}?", f"What is {DEV}?"]),
        "d1": topics["dev"]["d1"],
        "d2": both,
    }


@settings(max_examples=30, deadline=None)
@given(judged=st.sets(st.tuples(st.integers(0, 39), st.integers(0, 7)), min_size=1, max_size=25))
def test_sides_share_no_document_and_no_query(judged: set[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = write_papers(Path(name), sorted(judged))
        rows = {side: section_rows(folder, side=side) for side in ("train", "dev", "all")}
    topics = {
        side: {query.split(": ")[1] for row in found.values() for query, _ in asked(row)}
        for side, found in rows.items()
    }
    assert not set(rows["train"]) & set(rows["dev"]) and not topics["train"] & topics["dev"]
    assert set(rows["train"]) | set(rows["dev"]) == set(rows["all"]) == {f"d{document}" for _, document in judged}
    queries = {f"What is {query}?" for query, _ in judged if split_of(f"q{query}") == "train"}
    assert topics["train"] == queries, "none of the train side is lost"


def test_a_task_of_sections(tmp_path: Path) -> None:
    folder = write_papers(tmp_path / "papers", [(TRAIN[0], 0), (DEV, 1), (DEV, 3)])
    task = load_sections(folder, "dev")
    assert task.name == "papers sections"
    assert task.document_ids == tuple(f"d{d}#{place}" for d in (1, 3) for place in range(3))
    assert task.doc_ids == ("d1",) * 3 + ("d3",) * 3 and task.chunk_idx == (0, 1, 2) * 2
    assert task.documents() == [[0, 1, 2], [3, 4, 5]]
    assert set(task.queries) == set(task.qrels) and len(task.queries) == 6
    for key, text in task.queries.items():
        ((answer, gain),) = task.qrels[key].items()
        heading = text.split(": ")[0]
        assert gain == 1 and key.split("?")[0] == answer.split("#")[0]
        assert task.texts[task.document_ids.index(answer)].startswith(f"# {heading}")
    assert len(load_sections(folder).queries) == 9


def test_folders_that_cannot_be_cut(tmp_path: Path) -> None:
    judged = [(TRAIN[0], 0)]
    with pytest.raises(InputError, match="papers has no document with sections in split 'dev'; sections need headings"):
        load_sections(write_papers(tmp_path / "papers", judged), "dev")
    chunks = write_papers(tmp_path / "chunks", judged, 1, doc_id="x", chunk_idx=0)
    for read in (section_rows, load_sections):
        with pytest.raises(InputError, match="chunks has doc_id: its documents are chunks already; read it as groups"):
            read(chunks)
    plain = write_folder(tmp_path / "plain", [{"_id": "d", "text": "one two"}], {"q": "who"}, [("q", "d")])
    with pytest.raises(InputError, match="plain has no document with sections; "):
        load_sections(plain)


def test_as_a_source(tmp_path: Path) -> None:
    """Rows of the train side, told apart by their folder."""
    for name in ("a", "b"):
        write_papers(tmp_path / name, [(TRAIN[0], 0), (DEV, 1), (TRAIN[1], 2)])
    source = read_examples("long", tmp_path, ["a", "b"], 0, kind="sections")
    drawn = source.draws(0, len(source))
    assert sorted(d.origin for d in drawn) == [f"{tmp_path / name}: document d{i}" for name in "ab" for i in (0, 2)]
    rows = [d.example for d in drawn]
    assert all(isinstance(row, Grouped) for row in rows)
    assert {(row.document_id, row.source) for row in rows} == {(f"{n}/d{i}", n) for n in "ab" for i in (0, 2)}
    assert source.contents() != read_examples("long", tmp_path, ["a"], 0, kind="sections").contents()
    with pytest.raises(InputError, match="source 'long' is of kind 'sections'; languages is for rows, texts and spans"):
        read_examples("long", tmp_path, ["a"], 0, kind="sections", languages={"en": 1.0})
