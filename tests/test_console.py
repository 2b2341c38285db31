"""What is shown: excerpts keep the best sentence whole, a terminal gets colour and a bar, and text cannot steer it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed import console

REPO = Path(__file__).parents[1]

texts = st.text(alphabet=st.sampled_from("ab .\n界é"), min_size=1, max_size=300)


@given(text=texts, ends=st.tuples(st.integers(0, 300), st.integers(0, 300)), limit=st.integers(0, 200))
def test_excerpt_shows_the_sentence_whole_and_says_what_it_leaves_out(
    text: str, ends: tuple[int, int], limit: int
) -> None:
    start, end = sorted(min(e, len(text)) for e in ends)
    before, sentence, after = console.excerpt(text, (start, end), limit)
    assert sentence == text[start:end]
    head, tail = re.sub(r"^\[…\]\s", "", before), re.sub(r"\s?\[…\]$", "", after)
    assert text[:start].endswith(head)
    assert text[end:].startswith(tail)
    assert len(head) + len(sentence) + len(tail) <= max(limit, len(sentence))
    assert before.startswith("[…]") or head == text[:start]
    assert after.endswith("[…]") or tail == text[end:]


@given(st.text())
def test_printable_has_no_control_characters(text: str) -> None:
    shown = console.printable(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    assert console.printable(shown) == shown


def test_remark_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.remark("one\ntwo\x1b[2J")
    assert capsys.readouterr().err == "one two\ufffd[2J\n"


def test_json_keeps_the_alphabet_and_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    console.emit_json({"text": "猫", "path": Path("a")})
    assert '"猫"' in capsys.readouterr().out
    with pytest.raises(ValueError, match="JSON"):
        console.emit_json({"score": float("nan")})


def on_a_terminal(code: str) -> str:
    """Run Python with stdout and stderr on a terminal of its own and give what the terminal got."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(REPO / "src"), "TERM": "xterm-256color", "COLUMNS": "80"}
    env.pop("NO_COLOR", None)
    child = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert child.wait(timeout=60) == 0, seen
    return seen.decode()


def test_a_terminal_gets_colour() -> None:
    code = """
from types import SimpleNamespace
from diffembed import console
text = "Before. [bold]The best[/bold] sentence \\x1b[2J. After."
place = dict(path="a.md", line_start=1, line_end=2, before=(), after=("The next chunk.",))
hit = SimpleNamespace(**place, score=0.5, text=text, best_sentence_span=(8, 41))
console.show_hits([hit])
"""
    seen = on_a_terminal(code)
    assert "\x1b[1;33m[bold]The best[/bold] sentence" in seen  # the mark, and brackets of the text left alone
    assert "The next chunk." in seen
    assert "\x1b[2J" not in seen
    assert "»" not in seen


def test_a_terminal_gets_a_progress_bar_and_a_pipe_none(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
from diffembed import console
with console.progress("reading") as tick:
    tick(1, 2)
    tick(2, 2)
"""
    assert "reading" in on_a_terminal(code)
    with console.progress("reading") as tick:
        tick(1, 2)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""


def test_training_gets_a_bar_on_a_terminal_and_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    code = """
from types import SimpleNamespace
from diffembed import console
with console.training() as (line, step):
    line("base: peak [2] TFLOP/s")
    at = SimpleNamespace(stage="base", step=3, steps=8, loss=2.5, tokens_per_second=12345.6, seconds_left=70, mfu=0.41)
    step(at)
"""
    shown = on_a_terminal(code)
    for part in ("base: peak [2] TFLOP/s", "3/8", "loss 2.5000", "12,346 tok/s", "41% of peak", "1 min 10 s left"):
        assert part in shown
    with console.training() as (line, step):
        line("base 1/8 loss 2.5")
        assert step is None
    assert capsys.readouterr().err == "base 1/8 loss 2.5\n"


def test_a_long_wait_in_a_pipe_gets_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_PLAIN_PROGRESS_SECONDS", 0.0)
    now = iter([100.0, 160.0, 220.0, 280.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    with console.progress("reading") as tick:
        tick(1, 4)
        tick(4, 4)
        tick(5, 0)
    shown = capsys.readouterr()
    assert shown.err == "reading: 1 of 4, 3 min 0 s left\nreading: 4 of 4\nreading: 5\n"
    assert shown.out == ""
