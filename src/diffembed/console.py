"""What the command line shows: data on stdout, progress and remarks on stderr.

Only this file prints. It knows nothing of models or indexes: the verbs in ``cli.py`` hand it plain values. rich is
imported only where a terminal is there to show its colours, because a piped search should not pay for it.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Progress = Callable[[int, int], None]

# Everything that could steer a terminal, save for tab and line feed: what is shown was read from files.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_EXCERPT_CHARS = 480
_PLAIN_PROGRESS_SECONDS = 10.0


def make_streams_safe() -> None:
    """Let stdout and stderr write any text, file names that are not valid UTF-8 too, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    r"""Text from a file without the control characters that could steer a terminal.

    >>> printable("red \x1b[31m and\r\nplain")
    'red \ufffd[31m and\nplain'
    """
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))


def emit(text: str) -> None:
    """One piece of data for stdout."""
    sys.stdout.write(text + "\n")


def emit_json(value: Any) -> None:
    """A value as JSON on stdout: one object, indented, in the alphabet of the texts where stdout can write it."""
    _emit_json(value, indent=2)


def emit_json_line(value: Any) -> None:
    """A value as one line of JSON, where there may be many."""
    _emit_json(value, indent=None)


def _emit_json(value: Any, indent: int | None) -> None:
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    emit(json.dumps(value, ensure_ascii=ascii_only, indent=indent, allow_nan=False, default=str))


def remark(text: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(printable(text).replace("\n", " ") + "\n")


def error_line(text: str) -> None:
    """The one line that an error leaves on stderr.

    Line ends inside the message become spaces: scripts read one line an error.
    """
    remark(f"diffembed: error: {text}")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on stderr when that is a terminal, otherwise a plain line every ten seconds.

    Yields:
        A function ``(done, total)``; a total of 0 is one that nobody knows. Nothing is drawn before its first call.
    """
    if not sys.stderr.isatty():
        yield _plain_progress(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None)
    started = False

    def tick(done: int, total: int) -> None:
        nonlocal started
        if not started:
            bar.start()
            started = True
        bar.update(task, completed=done, total=total or None)

    try:
        yield tick
    finally:
        if started:
            bar.stop()


@contextmanager
def training() -> Iterator[tuple[Callable[[str], None], Callable[[Any], None] | None]]:
    """What a training run says, on stderr.

    Yields:
        Who is told of lines, and who of steps (``diffembed.training.loop.Progress``): a bar with loss, tokens a second,
        share of the machine's peak and time left, ``None`` where no terminal is there to draw it.
    """
    if not sys.stderr.isatty():
        yield remark, None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    facts = "loss {task.fields[loss]:.4f}  {task.fields[speed]:,.0f} tok/s{task.fields[mfu]}  {task.fields[left]} left"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(facts))
    bar = Bar(*columns, console=Console(stderr=True, highlight=False), transient=True)
    tasks: dict[str, Any] = {}

    def line(text: str) -> None:
        bar.console.print(printable(text).replace("\n", " "), markup=False)

    def step(at: Any) -> None:
        mfu = f"  {at.mfu:.0%} of peak" if at.mfu else ""
        fields = {"loss": at.loss, "speed": at.tokens_per_second, "mfu": mfu, "left": duration(at.seconds_left)}
        if at.stage not in tasks:
            bar.start()
            tasks[at.stage] = bar.add_task(at.stage, total=at.steps, **fields)
        bar.update(tasks[at.stage], completed=at.step, **fields)

    try:
        yield line, step
    finally:
        if tasks:
            bar.stop()


def duration(seconds: float) -> str:
    """A time to wait, in the two largest units.

    >>> duration(59.6), duration(3599), duration(90_061)
    ('1 min 0 s', '59 min 59 s', '1 d 1 h')
    """
    left = round(seconds)
    for unit, name, size, part in (("d", "h", 86_400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if left >= size:
            return f"{left // size} {unit} {left % size // part} {name}"
    return f"{left} s"


def _plain_progress(what: str) -> Progress:
    began = last = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PLAIN_PROGRESS_SECONDS:
            last = now
            known = 0 < done < total and 50 * done >= total  # a first step that also loads things says nothing
            left = f", {duration((now - began) * (total - done) / done)} left" if known else ""
            remark(f"{what}: {done} of {total}{left}" if total else f"{what}: {done}")

    return tick


def excerpt(text: str, span: tuple[int, int], limit: int = _EXCERPT_CHARS) -> tuple[str, str, str]:
    """The best sentence of a chunk with as much of the text around it as fits.

    Args:
        text: the chunk.
        span: ``(start, end)`` of the best sentence in it, in characters.
        limit: how many characters to show, the sentence included; the sentence itself is always shown whole.

    Returns:
        ``(before, sentence, after)``; ``[…]`` stands where the chunk goes on.

    >>> excerpt("One two. Three four. Five six.", (9, 20), limit=24)
    ('[…] two. ', 'Three four.', ' Five […]')
    >>> excerpt("All of it.", (0, 10))
    ('', 'All of it.', '')
    """
    start, end = span
    room = max(0, limit - (end - start))
    first, last = max(0, start - room // 2), min(len(text), end + room - room // 2)
    # Room that one side does not need goes to the other.
    first = max(0, first - (room - (start - first) - (last - end)))
    last = min(len(text), last + (room - (start - first) - (last - end)))
    before, after = text[first:start], text[end:last]
    # Cut between lines where there is a line end, else between words.
    if first > 0:
        cut = re.search(r"\n", before) or re.search(r"\s", before)
        before = ("[…]" + (cut.group() if cut else " ")) + (before[cut.end() :] if cut else "")
    if last < len(text):
        cuts = list(re.finditer(r"\n", after)) or list(re.finditer(r"\s", after))
        after = (after[: cuts[-1].start()] + cuts[-1].group() if cuts else " ") + "[…]"
    return before, text[start:end], after


def show_hits(hits: Sequence[Any], *, first: int = 1) -> None:
    """Ranked chunks on stdout: place, score, and the text around the best sentence, which is marked.

    On a terminal the mark is a colour, otherwise ``»…«``. Long chunks are shown in part, with ``[…]`` where text was
    left out; the chunks around a hit, where they were asked for, are shown whole. ``--json`` has every chunk whole.
    ``first`` is the rank of the first.
    """
    if sys.stdout.isatty():
        _show_hits_in_colour(hits, first)
        return
    for rank, hit in enumerate(hits, start=first):
        before, sentence, after = excerpt(hit.text, hit.best_sentence_span)
        emit(f"{rank}. {_place(hit)}  {hit.score:.3f}")
        body = f"{before}»{sentence}«{after}" if sentence else before + after
        emit("\n".join(indented(part) for part in (*hit.before, body, *hit.after)) + "\n")


def _show_hits_in_colour(hits: Sequence[Any], first: int) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console(highlight=False)
    for rank, hit in enumerate(hits, start=first):
        head = Text(f"{rank}. ")
        head.append(_place(hit), style="bold cyan")
        head.append(f"  {hit.score:.3f}", style="dim")
        before, sentence, after = (printable(part) for part in excerpt(hit.text, hit.best_sentence_span))
        body = Text("".join(f"{printable(text)}\n" for text in hit.before), style="dim")
        body.append(before.lstrip("\n"), style="not dim")
        body.append(sentence, style="not dim bold yellow")
        body.append(after.rstrip(), style="not dim")
        body.append("".join(f"\n{printable(text)}" for text in hit.after))
        console.print(head)
        console.print(Padding(body, (0, 0, 1, 3)))


def _place(hit: Any) -> str:
    if hit.path is None:
        return printable(hit.key).replace("\n", " ")
    lines = f"{hit.line_start}" if hit.line_start == hit.line_end else f"{hit.line_start}-{hit.line_end}"
    return f"{printable(shown_path(hit.path))}:{lines}"


def shown_path(path: Path | str) -> str:
    """A path as short as it can be given: from the current folder where it lies below that."""
    with suppress(ValueError, OSError):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


def indented(body: str) -> str:
    """A text below its heading."""
    lines = (line.rstrip() for line in printable(body).strip("\n").split("\n"))
    return "\n".join(f"   {line}" if line else "" for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[bool] = ()) -> str:
    """Columns of text, numbers to the right; ``right`` says which columns hold numbers that are text already.

    >>> print(table(["metric", "value"], [["ndcg@10", 0.5], ["queries", 12]]))
    metric    value
    ndcg@10  0.5000
    queries      12
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    right = right or [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(head))]
    lines = []
    for line in [list(head), *cells]:
        padded = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def number(value: object) -> str:
    """A value as a cell that is read by itself: four digits after the point below 1, two from there on.

    >>> number(0.69558), number(1234.5), number(12000), number(True), number([64, 128]), number("ok")
    ('0.6956', '1,234.50', '12,000', 'yes', '64/128', 'ok')
    """
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:,.2f}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "/".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value)).replace("\n", " ")
