from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.errors import InputError
from diffembed.text import readers
from diffembed.text.readers import SourceText, UnreadableFile, decode, kind_of, read_file, read_source


def read(name: str, content: str | bytes) -> SourceText:
    return read_source(Path(name), content.encode() if isinstance(content, str) else content)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.rst", "a.py", "Makefile", "noextension"])
def test_plain_text_is_kept_character_for_character(name: str) -> None:
    text = "\r\n  Zeile eins 👩‍👩‍👧\r\nzwei\n\tdrei\rvier"
    assert read(name, text).text == text
    assert read(name, "\ufeff" + text).text == text


@given(st.text(alphabet=st.sampled_from("ab é梟👧\r\n"), min_size=1))
def test_lines_are_counted_as_editors_do(text: str) -> None:
    source = SourceText.plain(text, "prose")
    unified = text.replace("\r\n", "\0\n").replace("\r", "\n").replace("\0\n", " \n")
    assert len(unified) == len(text)
    for offset in range(len(text)):
        assert source.line_at(offset) == unified.count("\n", 0, offset) + 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary file"),
        ("text".encode("utf-16"), "UTF-16"),
        (b"fine\nnot \xe9 fine", r"not UTF-8 \(byte 0xe9 in line 2\)"),
        (b"", "no text"),
        (b" \n\t\r\n", "no text"),
    ],
)
def test_what_is_not_text_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read("a.txt", content)


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 10)
    with pytest.raises(UnreadableFile, match="11 bytes; files over 10 are left out, split it"):
        read("a.txt", "x" * 11)


def test_read_file_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\0")
    with pytest.raises(InputError, match=r"a\.bin: binary file"):
        read_file(tmp_path / "a.bin")
    with pytest.raises(InputError, match="cannot be read"):
        read_file(tmp_path / "missing.txt")


def test_kinds() -> None:
    kinds = {name: kind_of(Path(name)) for name in ("a.MD", "b.rst", "c.TSX", "d.txt", "Dockerfile", "e.log")}
    assert kinds == {
        "a.MD": "markdown",
        "b.rst": "rst",
        "c.TSX": "code",
        "d.txt": "prose",
        "Dockerfile": "code",
        "e.log": "prose",
    }


HTML = """<!doctype html>
<html><head><title>Owls &amp; jays</title><style>p { color: red }</style></head>
<body>
<script>var hidden = "no";</script>
<h1>Owls</h1>
<p>They <b>hunt</b> at
   night.<br>By ear.</p>
<ul><li>barn owl<li>eagle&nbsp;owl</ul>
<pre>a = 1
  b = 2</pre>
</body></html>"""


def test_html_becomes_readable_text_with_the_lines_of_its_source() -> None:
    source = read("a.html", HTML)
    assert source.text == "# Owls\n\nThey hunt at night.\nBy ear.\n\n- barn owl\n- eagle\xa0owl\n\na = 1\n  b = 2"
    assert source.kind == "markdown"
    for words, line in (
        ("# Owls", 5),
        ("hunt", 6),
        ("night", 7),
        ("By ear", 7),
        ("barn", 8),
        ("a = 1", 9),
        ("b = 2", 10),
    ):
        assert source.line_at(source.text.index(words)) == line, words


def test_html_without_a_heading_takes_its_title() -> None:
    assert read("a.html", "<title>Owls &amp; jays</title><p>text").text == "# Owls & jays\n\ntext"


@given(st.text(alphabet=st.sampled_from("<>/!-&;\"'= abpscriptlh1\n")))
def test_no_html_breaks_the_reader(text: str) -> None:
    try:
        source = read("a.html", text)
    except UnreadableFile:
        return
    assert source.line_offsets[0] == 0
    assert list(source.line_offsets) == sorted(source.line_offsets)
    assert len(source.line_offsets) == len(source.line_numbers)


def test_csv_rows_with_their_lines() -> None:
    source = read("a.csv", 'name,text\r\nowl,"hunts\r\nat night"\r\n\r\njay,steals\r\n')
    assert source.text == "name: owl\ntext: hunts\r\nat night\n\nname: jay\ntext: steals"
    assert [source.text[at : at + 9] for at in (0, *source.breaks)] == ["name: owl", "name: jay"]
    assert [source.line_at(source.text.index(word)) for word in ("owl", "night", "steals")] == [2, 2, 5]


def test_csv_errors_name_the_line() -> None:
    with pytest.raises(UnreadableFile, match="line 3 has 3 fields, the header has 2"):
        read("a.csv", "a,b\n1,2\n1,2,3\n")
    with pytest.raises(UnreadableFile, match="line 2 is not CSV"):
        read("a.csv", 'a,b\n"open,2\n')


def test_tsv_and_a_lone_line() -> None:
    assert read("a.tsv", "name\ttext\nowl\thunts").text == "name: owl\ntext: hunts"
    assert read("a.csv", "just,one,line\n").text == "just,one,line"


def test_jsonl_records() -> None:
    rows = [
        {"_id": "1", "title": "Owls", "text": "They hunt."},
        {"chunks": ["one", "two"]},
        {"name": "jay", "wings": 2, "note": None},
    ]
    source = read("a.jsonl", "\n".join(json.dumps(row) for row in rows[:2]) + "\n\n" + json.dumps(rows[2]) + "\n")
    assert source.text == "Owls\nThey hunt.\n\none\ntwo\n\nname: jay\nwings: 2"
    assert [source.line_at(offset) for offset in (0, *source.breaks)] == [1, 2, 4]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{broken", "line 2 is not JSON"), ("[1]", "line 2 is not a JSON object"), ("[" * 99999, "line 2 is not JSON")],
)
def test_a_bad_jsonl_line_is_named(line: str, reason: str) -> None:
    with pytest.raises(UnreadableFile, match=reason):
        read("a.jsonl", '{"text": "fine"}\n' + line + "\n")


def test_half_a_surrogate_pair_in_json_does_not_leak() -> None:
    assert read("a.jsonl", '{"text": "a \\ud83d b"}').text == "a ? b"


@pytest.mark.parametrize(("suffix", "module"), [(".pdf", "pypdf"), (".docx", "docx")])
def test_a_missing_reader_says_how_to_get_it(suffix: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UnreadableFile, match=r"pip install 'diffembed\[readers\]'") as error:
        read("a" + suffix, b"whatever")
    assert not error.value.lasting


@pytest.mark.parametrize(("suffix", "module"), [(".pdf", "pypdf"), (".docx", "docx")])
def test_a_damaged_document_is_refused(suffix: str, module: str) -> None:
    pytest.importorskip(module)
    with pytest.raises(UnreadableFile, match="a damaged"):
        read("a" + suffix, b"%PDF-1.4 garbage \0\0")


def test_docx(tmp_path: Path) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("Owls", level=2)
    document.add_paragraph("They hunt at night.")
    document.add_paragraph("barn owl", style="List Bullet")
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "jay", "steals"
    document.save(str(tmp_path / "a.docx"))
    assert read_file(tmp_path / "a.docx").text == "## Owls\n\nThey hunt at night.\n\n- barn owl\n\njay | steals"


def test_pdf() -> None:
    pytest.importorskip("pypdf")
    stream = b"BT /F1 24 Tf 72 700 Td (Owls hunt at night.) Tj ET"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    content, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(content))
        content += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(content)
    content += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        start,
    )
    assert read("a.pdf", content).text == "Owls hunt at night."


def test_decode_keeps_line_ends() -> None:
    assert decode(b"a\r\nb\rc\n") == "a\r\nb\rc\n"
