"""What ``diffembed evaluate conteb``, ``toolret`` and ``rag`` do: each calls public functions and shows the results.

``cli_rag.py`` says which options there are, ``console.py`` how it looks.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed import console
from diffembed.errors import InputError
from diffembed.verbs_evaluate import command, plain

if TYPE_CHECKING:
    from diffembed.console import Progress
    from diffembed.evaluation.rag import Prompt, Reader
    from diffembed.evaluation.results import Result
    from diffembed.evaluation.toolret import Corpus

_HOW = {False: "without instruction", True: "with instruction"}


def conteb(
    names: Sequence[str], *, model: str, form: dict[str, Any], data: Path | None, into: Path, as_json: bool
) -> None:
    """``diffembed evaluate conteb``: ``form`` as of ``load_ranker``."""
    from diffembed.evaluation.conteb import SETS, evaluate_conteb, load_conteb, means
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder

    chosen = list(dict.fromkeys(names or SETS))
    for name in chosen:
        load_conteb(name, data)  # before a model encodes the first of them for nothing
    ranker, folder = load_ranker(model, **form), ResultFolder(into)
    results: list[Result] = []
    for number, name in enumerate(chosen, start=1):
        with console.progress(f"{name}, encoding") as tick:
            result, kept = evaluate_conteb(name, ranker, data=data, into=folder, command=command(), progress=tick)
        results.append(result)
        took = "was there" if kept else f"{result.cost['seconds']:.1f} s"
        console.remark(f"{model} {number}/{len(chosen)} {name}: {result.main} {result.score:.4f} ({took})")
    whole = means(results)
    if as_json:
        console.emit_json({"model": model, "means": whole, "results": [plain(result) for result in results]})
        return
    measures = ("ndcg@10", "recall@10")
    rows: list[list[object]] = []
    for result in results:
        counted = [result.counts["queries"], result.counts["documents"]]
        rows.append([result.task, SETS[result.task].domain, *counted, *(result.scores[name] for name in measures)])
    rows += [[f"mean, {part}", "", "", "", *(scores[name] for name in measures)] for part, scores in whole.items()]
    console.emit(console.table(["set", "domain", "queries", "chunks", *measures], rows))
    _remark_notes(results)


def toolret(
    names: Sequence[str],
    *,
    model: str,
    form: dict[str, Any],
    data: Path | None,
    settings: Sequence[bool],
    corpus: Corpus,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate toolret``: ``form`` as of ``load_ranker``."""
    from diffembed.evaluation.ranker import load_ranker
    from diffembed.evaluation.results import ResultFolder
    from diffembed.evaluation.toolret import TASKS, evaluate_toolret, load_toolret, means

    tasks = tuple(dict.fromkeys(names or TASKS))
    load_toolret(data, tasks)  # before a model is loaded for nothing
    ranker = load_ranker(model, **form)
    found: dict[bool, list[Result]] = {}
    for instruction in settings:
        with console.progress(f"{_HOW[instruction]}, encoding") as tick:
            found[instruction] = evaluate_toolret(
                ranker,
                data=data,
                tasks=tasks,
                instruction=instruction,
                corpus=corpus,
                into=ResultFolder(into),
                command=command(),
                progress=tick,
            )
    every = [result for results in found.values() for result in results]
    whole = {_HOW[instruction]: means(results) for instruction, results in found.items()}
    if as_json:
        console.emit_json({"model": model, "means": whole, "results": [plain(result) for result in every]})
        return
    measures = ("ndcg@10", "p@10", "recall@10", "completeness@10")
    rows: list[list[object]] = []
    for instruction, results in found.items():
        how = _HOW[instruction].partition(" ")[0]
        for result in results:
            named = [result.task, TASKS[result.task], how, result.counts["queries"]]
            rows.append([*named, *(result.scores[name] for name in measures)])
        for part, scores in whole[_HOW[instruction]].items():
            rows.append([f"mean, {part}", "", how, "", *(scores[name] for name in measures)])
    console.emit(console.table(["task", "category", "instruction", "queries", *measures], rows))
    _remark_notes(every)


def rag(
    questions: Path,
    passages: Path,
    *,
    model: str | None,
    form: dict[str, Any],
    reader: dict[str, Any],
    top: int,
    into: Path,
    as_json: bool,
) -> None:
    """``diffembed evaluate rag``: ``form`` as of ``load_ranker``, ``reader`` as the options are called."""
    from diffembed.evaluation.bergen import read_questions
    from diffembed.evaluation.passages import open_passages
    from diffembed.evaluation.rag import evaluate_rag
    from diffembed.evaluation.results import ResultFolder

    asked = read_questions(questions)
    answers = _reader(reader)
    source = open_passages(passages, model, **form)
    with _one_after_the_other("encoding passages", "answering") as (encoding, answering):
        result, kept = evaluate_rag(
            asked,
            source,
            answers,
            top=top,
            into=ResultFolder(into),
            command=command(),
            progress=encoding,
            answering=answering,
        )
    if as_json:
        console.emit_json(plain(result))
        return
    if kept:
        console.remark(f"this was measured before: {into}")
    rows: list[tuple[str, object]] = [*result.scores.items()]
    rows += [(name, value) for name, value in result.counts.items() if value]
    who = f", answers of {result.settings['llm']}" if "llm" in result.settings else ""
    console.emit(f"{result.task} over {source.name}: {result.model}, {top} passages{who}\n")
    console.emit(console.table(["", "value"], [(name, console.number(value)) for name, value in rows]))
    _remark_notes([result])


@contextmanager
def _one_after_the_other(first: str, second: str) -> Iterator[tuple[Progress, Progress]]:
    """Two bars, of which a terminal can show one: the first ends when the second begins."""
    with ExitStack() as bars:
        begun: list[Progress] = []

        def later(done: int, total: int) -> None:
            if not begun:
                bars.close()
                begun.append(bars.enter_context(console.progress(second)))
            begun[0](done, total)

        yield bars.enter_context(console.progress(first)), later


def _reader(options: dict[str, Any]) -> Reader | None:
    """Who answers; ``None`` without a server. A server that is not there is told at once, not after the encoding."""
    from diffembed.evaluation.rag import Reader
    from diffembed.synthesis.client import Client, Sampling

    server, llm = options["server"], options["llm"]
    if server is None and llm is None:
        return None
    if server is None or llm is None:
        raise InputError("--server and --llm belong together: the address, and the model's name there")
    client = Client(server, llm, key_variable=options["key_variable"], **options["client"])
    known = client.models()
    if known and llm not in known:
        console.remark(f"the server does not list {llm}; it has {', '.join(known[:5])}")
    sampling = options["sampling"] | {"extra": _extra(options["sampling"]["extra"])}
    prompt = {"prompt": _prompt(options["prompt"])} if options["prompt"] else {}
    return Reader(client, Sampling(**sampling), at_once=options["at_once"], **prompt)


def _extra(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"--extra must be a JSON object, such as '{{\"top_p\": 0.9}}', not {text!r}")
    return value


def _prompt(file: Path) -> Prompt:
    from diffembed.evaluation.rag import Prompt

    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{file} cannot be read as a prompt: {error}") from error
    if set(values) - {"system", "user"} or "user" not in values or not all(isinstance(v, str) for v in values.values()):
        raise InputError(f"{file} has the keys {sorted(values)}; expected 'user' and perhaps 'system', both strings")
    return Prompt(values.get("system", ""), values["user"])


def _remark_notes(results: Sequence[Result]) -> None:
    for result in results:
        for note in result.notes:
            console.remark(f"{result.task}: {note}")
