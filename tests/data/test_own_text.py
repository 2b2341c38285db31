"""A folder's own questions: from headings, sentences, comments; what is left out; the files that training reads."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.data.beir import load_beir
from diffembed.data.examples import Grouped, Pair, parse_example
from diffembed.data.jsonl import read_objects
from diffembed.data.own_code import documented_definitions
from diffembed.data.own_folder import name_of, questions_apart, read_own_folder
from diffembed.data.own_text import ask, heading_words, is_question, plain, sections, size, without
from diffembed.data.own_work import pairs_of, stretches, write_work
from diffembed.errors import InputError
from diffembed.text.readers import SourceText, TextKind

BODY = "They hang below the roof and wait there until it is dark and quiet enough to leave for the fields again. "


def asked(text: str, kind: TextKind = "markdown", name: str = "bats") -> list[tuple[str, str]]:
    return [(a.origin, a.query) for a in ask(SourceText.plain(text, kind), name)]


def words(texts: list[str] | tuple[str, ...]) -> list[int]:
    return [len(text.split()) for text in texts]


def write_own(folder: Path, documents: int = 40, seed: str = "bat") -> Path:
    """A folder of small pages, each with three sections of its own words."""
    for i in range(documents):
        parts = [f"# The {seed}{i} handbook\n"]
        for part in ("Feeding habits", "Winter sleep", "Hunting grounds"):
            own = " ".join(f"{seed}{i}{part[0].lower()}{j}" for j in range(30))
            parts.append(
                f"## {part}\n\nThe {seed}{i} has {part.lower()} that nobody has written down before. Words: {own}.\n"
            )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{seed}-{i}.md").write_text("\n".join(parts), encoding="utf-8")
    return folder


def test_headings_ask_with_what_they_stand_under() -> None:
    text = f"# Barn owls\n\n{BODY}\n\n## Nest boxes\n\n- {BODY}\n"
    found = dict(asked(text))
    query = found["heading"]
    assert next(q for o, q in asked(text) if o == "heading") == "Barn owls"
    assert {*query.replace(":", "").split()} == {"Nest", "boxes", "Barn", "owls"}, "title and heading, in some order"
    assert asked(text) == asked(text), "nothing is drawn"


def test_a_name_alone_a_number_and_a_heading_over_nothing_ask_nothing() -> None:
    for heading in ("CMP0083", "2024-03-01", "v1.2.3", "Bats"):
        assert [q for o, q in asked(f"# {heading}\n\n- {BODY}", name="x") if o == "heading"] == []
    assert asked("# Nest boxes\n\n## And more\n\nToo little here.") == []


def test_questions_in_the_text_are_asked_of_what_follows() -> None:
    text = f"# Bats\n\nSome come back every year. How do bats find their way home? {BODY}"
    assert ("question", "How do bats find their way home?") in asked(text)
    code = f"# Bats\n\n{BODY}\n\n```js\nHow do bats find their way in code? {BODY}\n```\n"
    assert not any(origin == "question" for origin, _ in asked(code)), "not of code"
    faq = "# Bats\n\n## How do bats sleep?\n\n" + BODY
    assert any(query.startswith("How do bats sleep?") or "How do bats sleep?" in query for _, query in asked(faq))


def test_text_without_headings_is_asked_by_its_first_sentence() -> None:
    text = "Bats sleep upside down for most of the day. " + BODY * 3
    assert asked(text, "prose") == [("lead", "Bats sleep upside down for most of the day.")]
    titled = f"Barn owls\n\n{BODY * 2}\n\nNest boxes\n\n{BODY * 2}"
    assert [s.heading for s in sections(SourceText.plain(titled, "prose"))] == ["Barn owls", "Nest boxes"]


def test_records_are_asked_one_by_one() -> None:
    rows = [f"Bat number {i} sleeps below the old roof all day. {BODY}\n" for i in ("one", "two", "three")]
    source = SourceText("".join(rows), "records", (0,), breaks=(len(rows[0]), len(rows[0]) + len(rows[1])))
    assert [a.query for a in ask(source, "bats")] == [row.split(".")[0] + "." for row in rows]


def test_first_sentences_skip_directives_and_lists() -> None:
    text = f"Nest boxes\n==========\n\n.. versionadded:: 3.1\n\nBoxes for owls hang high up in the barn. {BODY}"
    assert ("lead", "Boxes for owls hang high up in the barn.") in asked(text, "rst")
    assert not any(o == "lead" for o, _ in asked(f"# Nest boxes\n\n| a | b |\n|---|---|\n| {BODY} | c |"))


RUST = """/// Adds two numbers up.
#[inline]
pub fn add(a: i32, b: i32) -> i32 {
    a + b + 0 + 0
}
"""
JAVASCRIPT = """/**
 * Adds two numbers up.
 * @param a one
 */
export const add = (a, b) => {
  return a + b + zero;
};
"""
GO = """// Adds two numbers up.
func Add(a int, b int) int {
\treturn a + b + zero
}
"""
RUBY = """# Adds two numbers up.
def add(a, b)
  a + b + zero + zero + zero
end
"""
PYTHON = """async def add(
    a: float, b: float
) -> float:
    r'''Adds two numbers up.

    Args:
        a: one
    '''
    first, second = a, b
    return first + second
"""
STUB = "def stub(a: int) -> int: ...\n\n\n" + PYTHON.replace("async ", "")
LICENCE = GO.replace("Adds two numbers up.", "Copyright 2020 the authors, all rights reserved")


@pytest.mark.parametrize(
    ("code", "count"),
    [
        (RUST, 1),
        (JAVASCRIPT, 1),
        (GO, 1),
        (RUBY, 1),
        (PYTHON, 1),
        (STUB, 1),
        (LICENCE, 0),
        ("// Says so.\nint a;\n", 0),
    ],
)
def test_comments_and_docstrings_of_many_languages(code: str, count: int) -> None:
    found = documented_definitions(code)
    assert [d.comment for d in found] == ["Adds two numbers up."] * count
    for definition in found:
        start, end = definition.span
        assert start <= definition.words[0] < definition.words[1] <= end <= len(code)
        assert definition.comment in code[slice(*definition.words)]


def test_code_asks_by_its_docstrings() -> None:
    code = 'def area(r):\n    """Compute the area of a round field."""\n    scale = 3.14159\n    return scale * r * r\n'
    ((origin, query),) = asked(code, "code")
    assert (origin, query) == ("code", "Compute the area of a round field.")


@given(st.text(alphabet=" \n#=`[](){}:.?*_-abc名", max_size=300), st.sampled_from(["markdown", "rst", "prose", "code"]))
def test_any_text_gives_answers_inside_it(text: str, kind: TextKind) -> None:
    for a in ask(SourceText.plain(text, kind), "name"):
        assert 0 <= a.answer[0] <= a.words[0] <= a.words[1] <= a.answer[1] <= len(text) and a.query.strip()


@given(st.text(max_size=60), st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4))
def test_cuts_leave_the_rest(text: str, spans: list[tuple[int, int]]) -> None:
    spans = [(a, b) for a, b in spans if b <= len(text)]
    gone = {i for a, b in spans for i in range(a, b)}
    left, cuts = without(text, spans)
    assert left == "".join(c for i, c in enumerate(text) if i not in gone)
    assert not cuts or cuts[-1][1] == len(gone)


@given(st.text(alphabet="ab. \n", max_size=200), st.integers(1, 50))
def test_stretches_hold_all_words(text: str, characters: int) -> None:
    assert " ".join(stretches(text, characters)).split() == text.split()


def test_small_helpers() -> None:
    assert plain("`CMAKE_<LANG>_FLAGS` and <b>bold</b> [x][y]") == "CMAKE_<LANG>_FLAGS and bold x"
    assert heading_words("=====\nScope\n=====") == "Scope"
    assert size("") == 0 and not is_question("Issues") and is_question("is it safe to delete")
    assert name_of("a/index.html") == "a" and name_of("API.md") == "API"


def test_a_folder_in_three_parts(tmp_path: Path) -> None:
    folder = read_own_folder([write_own(tmp_path / "bats")])
    parts = [{d.id for d in part} for part in (folder.train, folder.dev, folder.held_out)]
    assert sum(map(len, parts)) == 40 and not parts[0] & parts[1] and not (parts[0] | parts[1]) & parts[2]
    assert all(4 <= len(part) <= 10 for part in parts[1:])
    (tmp_path / "moved").mkdir()
    for file in (tmp_path / "bats").iterdir():
        file.rename(tmp_path / "moved" / f"x{file.name}")
    again = read_own_folder([tmp_path / "moved"])
    assert [d.digest for d in again.held_out] == [d.digest for d in folder.held_out], "by content, not by name"


def test_what_gives_nothing_is_counted_with_its_reason(tmp_path: Path) -> None:
    bats = write_own(tmp_path / "bats")
    (bats / "copy.md").write_text((bats / "bat-1.md").read_text(encoding="utf-8"), encoding="utf-8")
    (bats / "empty.txt").write_text(" \n", encoding="utf-8")
    (bats / "binary.txt").write_bytes(b"a\0b")
    (bats / "short.md").write_text("# Nest boxes\n\nfew words", encoding="utf-8")
    (bats / "data.json").write_text(json.dumps({f"key{i}": f"value{i}" for i in range(40)}, indent=1), encoding="utf-8")
    licence = "Copyright of the owls. Licensed under the terms of the barn, without warranty of any kind at all."
    for i in range(5):
        page = bats / f"bat-{i}.md"
        page.write_text(f"{licence}\n\n{page.read_text(encoding='utf-8')}", encoding="utf-8")
    (bats / "licence.md").write_text(licence, encoding="utf-8")
    links = "\n".join(f"* [page {i}](page-{i}.md)" for i in range(6))
    (bats / "bat-7.md").write_text(f"{(bats / 'bat-7.md').read_text(encoding='utf-8')}\n\n{links}\n", encoding="utf-8")
    folder = read_own_folder([bats])
    assert [s.reason for s in folder.left_out if s.path.name in ("copy.md", "bat-1.md")] in (
        ["the same text as bat-1.md"],
        ["the same text as copy.md"],
    )
    reasons = {s.path.name: s.reason for s in folder.left_out}
    assert reasons["empty.txt"] == "no text in it" and reasons["binary.txt"] == "binary file"
    assert reasons["licence.md"] == "nothing but boilerplate"
    silent = {s.path.name: s.reason for s in folder.silent}
    assert silent == {"short.md": "fewer than 20 words", "data.json": "no definition with a comment"}
    text = "".join(d.source.text for d in folder.documents)
    assert "warranty" not in text and "page-3.md" not in text
    assert folder.boilerplate == 7
    (bats / "bat-20-copy.md").write_text((bats / "bat-20.md").read_text(encoding="utf-8") + "\n\n", encoding="utf-8")
    assert "the same text as bat-20" in " ".join(s.reason for s in read_own_folder([bats]).left_out)


def test_questions_that_several_documents_ask_are_dropped(tmp_path: Path) -> None:
    bats = write_own(tmp_path / "bats")
    for name in "ab":
        own = " ".join(f"{name}{i}" for i in range(30))
        (bats / f"{name}.txt").write_text(f"Nobody knows where the bats go. Words: {own}", encoding="utf-8")
    folder = read_own_folder([bats])
    assert folder.ambiguous == 2
    assert {s.path.name: s.reason for s in folder.silent} == dict.fromkeys(
        ("a.txt", "b.txt"), "its questions are asked by other documents too"
    )


def test_a_small_folder_is_refused_by_name(tmp_path: Path) -> None:
    bats = write_own(tmp_path / "bats", documents=3)
    (bats / "empty.txt").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"3 documents ask \d+ questions; at least 20 documents and 100 .* no text"):
        read_own_folder([bats])
    with pytest.raises(InputError, match="no such file"):
        read_own_folder([tmp_path / "none"])


def test_the_work_folder_is_what_training_reads(tmp_path: Path) -> None:
    folder = read_own_folder([write_own(tmp_path / "bats")])
    work = tmp_path / "work"
    report = write_work(folder, work, count_tokens=words, chunk_tokens=60)
    rows = [parse_example(row, where) for where, row in read_objects(work / "rows.jsonl")]
    assert len(rows) == report.pairs == sum(report.origins.values())
    pairs = [row for row in rows if isinstance(row, Pair)]
    inside = [pair.query.split()[0] in pair.document for pair in pairs if pair.source == "lead"]
    assert 0 < sum(inside) < len(inside), "answers stand with and without the words of their question"
    groups = [parse_example(row, where) for where, row in read_objects(work / "groups.jsonl")]
    assert len(groups) == report.groups == len(folder.train)
    for group in groups:
        assert isinstance(group, Grouped)
        assert all(q.chunk is not None for q in group.questions)
    texts = [row["text"] for _, row in read_objects(work / "text.jsonl")]
    assert len(texts) == report.texts
    kept = {document.id for document in (*folder.dev, *folder.held_out)}
    assert not kept & {pair.id.split("#")[0] for pair in pairs}
    seeds = [document.id.removesuffix(".md").replace("-", "") for document in folder.held_out]
    trained = " ".join([*texts, *(pair.document for pair in pairs)]).split()
    assert not {f"{seed}f1" for seed in seeds} & {*trained}, "nothing of a held-out document is trained on"


def test_tests_search_all_chunks_without_the_words_of_the_question(tmp_path: Path) -> None:
    folder = read_own_folder([write_own(tmp_path / "bats")])
    report = write_work(folder, tmp_path / "work", count_tokens=words, chunk_tokens=60)
    task = load_beir(tmp_path / "work" / "heldout")
    assert len(task.queries) == report.held_out_questions and set(task.doc_ids or ()) == {
        d.id for d in folder.documents
    }
    texts = dict(zip(task.document_ids, task.texts, strict=True))
    for name, query in task.queries.items():
        found = [texts[i] for i in task.qrels[name]]
        assert found and not any(query in text for text in found)
        assert {i.rpartition("#")[0] for i in task.qrels[name]} == {name.rpartition("?")[0]}
    dev = load_beir(tmp_path / "work" / "dev")
    assert not {d.id for d in folder.held_out} & set(dev.doc_ids or ())
    for document in folder.held_out:
        spans = sorted(a.answer for a in questions_apart(document))
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert pairs_of(document) == pairs_of(document)
