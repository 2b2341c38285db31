"""Question answering end to end: passages of a corpus or an index, answers of a stub server, resuming, the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli.invoke import REPO
from tests.cli.invoke import run as invoke
from tests.synthesis.stub import Behaviour, Stub, stub_server

from diffembed.errors import InputError, ServerError
from diffembed.evaluation.answers import open_answers
from diffembed.evaluation.bergen import read_questions
from diffembed.evaluation.passages import open_passages
from diffembed.evaluation.rag import Prompt, Reader, evaluate_rag
from diffembed.evaluation.results import Result, ResultFolder
from diffembed.synthesis import Client, Sampling

KEY = "sk-rag-secret-987654321"
CORPUS = [
    {"_id": "p1", "title": "Peru", "text": "Lima is the capital of Peru.", "doc_id": "peru", "chunk_idx": 0},
    {"_id": "p2", "title": "Peru", "text": "Its currency is the sol.", "doc_id": "peru", "chunk_idx": 1},
    {"_id": "n1", "title": "Norway", "text": "Oslo is the capital of Norway.", "doc_id": "norway", "chunk_idx": 0},
    {"_id": "n2", "title": "Norway", "text": "Fjords cut the coast of Norway.", "doc_id": "norway", "chunk_idx": 1},
]
QA = [
    {"id": "q1", "question": "capital of Peru", "answers": ["Lima"], "evidence": ["p1"]},
    {"id": "q2", "question": "capital of Norway", "answers": ["Oslo"], "evidence": ["norway"]},
    {"id": "q3", "question": "the moon of Norway", "answers": ["none"]},
]


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    folder.mkdir()
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CORPUS), encoding="utf-8")
    return folder


@pytest.fixture
def qa(tmp_path: Path) -> Path:
    file = tmp_path / "my-qa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QA), encoding="utf-8")
    return file


def knows(number: int, body: dict[str, Any]) -> str:
    """A reader that repeats the word before " is the capital of" that it is asked for; it knows nothing itself."""
    text = body["messages"][-1]["content"]
    shown, _, asked = text.rpartition("Question:")
    country = asked.split()[2]
    said = [line for line in shown.splitlines() if line.endswith(f"is the capital of {country}.")]
    return f"It is {said[0].split()[0]}!" if said else "I do not know."


def measure(
    qa: Path, passages: Path, stub: Stub | None, into: Path | None = None, **options: Any
) -> tuple[Result, bool]:
    reader = None
    if stub is not None:
        reader = Reader(Client(stub.url, "stub-1b", attempts=2, pause=0.01, timeout=60), Sampling(max_tokens=16))
    folder = ResultFolder(into) if into else None
    return evaluate_rag(read_questions(qa), open_passages(passages, "bm25"), reader, into=folder, **options)


def test_scores_by_hand(qa: Path, passages: Path) -> None:
    with stub_server(knows) as stub:
        result, kept = measure(qa, passages, stub, top=2)
    assert not kept
    assert (result.benchmark, result.task, result.main, result.model) == ("RAG", "my-qa", "match", "bm25")
    assert result.scores["match"] == pytest.approx(2 / 3)
    assert result.scores["exact_match"] == 0
    assert result.by_query["q1"]["f1"] == pytest.approx(2 * 1 / (3 + 1))
    # the answer stands in the first passage for q1 and q2; q3 has none in the corpus
    assert result.scores["answer_recall@1"] == pytest.approx(2 / 3)
    # of the two questions with evidence: p1 itself, and a chunk of the document "norway"
    assert result.scores["evidence_recall@2"] == 1
    assert "evidence_recall@2" not in result.by_query["q3"]
    assert result.counts["with_evidence"] == 2
    assert (result.counts["prompt_tokens"], result.counts["completion_tokens"]) == (33, 9)
    assert result.settings["llm"] == "stub-1b" and result.settings["temperature"] == 0.0
    assert result.settings["top"] == 2 and result.settings["seed"] == 0
    assert any("stub-1b" in note for note in result.notes)
    bodies = [body for _, _, body in stub.requests]
    asked = next(body for body in bodies if "capital of Peru\n" in body["messages"][1]["content"])
    assert asked["messages"][1]["content"].startswith("Passage 1:\nPeru\nLima is the capital of Peru.\n\nPassage 2:\n")
    assert "Passage 3" not in asked["messages"][1]["content"]


def test_without_a_server_the_passages_alone_are_measured(qa: Path, passages: Path) -> None:
    result, _ = measure(qa, passages, None, top=2)
    assert result.main == "answer_recall@2"
    assert "match" not in result.scores and "llm" not in result.settings
    assert result.score == pytest.approx(2 / 3)


def test_answers_are_kept_and_results_too(qa: Path, passages: Path, tmp_path: Path) -> None:
    into = tmp_path / "results"
    with stub_server(knows) as stub:
        first, _ = measure(qa, passages, stub, into)
        assert len(stub.requests) == 3
        again, kept = measure(qa, passages, stub, into)
        assert kept and again.scores == first.scores
        # another number of passages is another prompt; the same prompts under another setting are not asked again
        measure(qa, passages, stub, into, top=1)
        asked = len(stub.requests)
        assert asked == 6
        lines = (into / "answers" / "stub-1b.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 6 and all(json.loads(line)["text"] for line in lines)
        for file in (into / "RAG").rglob("*.json"):
            file.unlink()
        again, kept = measure(qa, passages, stub, into)
        assert not kept and again.scores == first.scores
        assert len(stub.requests) == asked


def test_other_data_is_measured_again(qa: Path, passages: Path, tmp_path: Path) -> None:
    into = tmp_path / "results"
    with stub_server(knows) as stub:
        measure(qa, passages, stub, into)
        (passages / "corpus.jsonl").write_text(json.dumps({"_id": "x", "text": "Nothing of Peru."}), encoding="utf-8")
        result, kept = measure(qa, passages, stub, into)
    assert not kept
    assert result.scores["match"] == 0


def failing(bad: Behaviour) -> Callable[[int, dict[str, Any]], str | Behaviour]:
    """Answers the first question, fails for good from then on."""
    return lambda number, body: knows(number, body) if number == 0 else bad


@pytest.mark.parametrize(
    "bad", [("status", 500, {}, b""), ("status", 429, {"Retry_After": "999"}, b""), ("cut", "length")], ids=str
)
def test_a_server_that_fails_costs_no_answer(qa: Path, passages: Path, tmp_path: Path, bad: Behaviour) -> None:
    into = tmp_path / "results"
    with stub_server(failing(bad)) as stub:
        with pytest.raises(ServerError):
            measure(qa, passages, stub, into)
    kept = (into / "answers" / "stub-1b.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 1
    with stub_server(knows) as stub:
        result, _ = measure(qa, passages, stub, into)
        assert len(stub.requests) == 2
    assert result.scores["match"] == pytest.approx(2 / 3)


def test_a_torn_last_line_is_asked_again(tmp_path: Path, qa: Path, passages: Path) -> None:
    into = tmp_path / "results"
    with stub_server(knows) as stub:
        measure(qa, passages, stub, into)
        file = into / "answers" / "stub-1b.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole[:-20])
        for result in (into / "RAG").rglob("*.json"):
            result.unlink()
        measure(qa, passages, stub, into)
        assert len(stub.requests) == 4
    assert len(file.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("line", [b"no json\n", b'{"key": "k", "text": "t"}\n', b"[]\n", b"\xff\n"], ids=str)
def test_a_bad_line_of_answers_is_named(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "a.jsonl"
    good = {"key": "k", "text": "t", "finish": "", "model": "", "prompt_tokens": 0, "completion_tokens": 0}
    file.write_bytes(json.dumps(good | {"attempts": 1}).encode() + b"\n" + line + b"{}\n")
    with pytest.raises(InputError, match="a.jsonl, line 2"), open_answers(file):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with open_answers(tmp_path / "a.jsonl"):
        with pytest.raises(InputError, match="another process"), open_answers(tmp_path / "a.jsonl"):
            pass


def test_thoughts_and_cut_answers_are_told(qa: Path, passages: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> Behaviour:
        choice = {"message": {"content": "<think>Lima</think>"}, "finish_reason": "length"}
        return "raw", json.dumps({"model": f"m{number % 2}", "choices": [choice]}).encode()

    with stub_server(script) as stub:
        result, _ = measure(qa, passages, stub)
    said = " ".join(result.notes)
    assert "m0, m1; they are not of one model" in said
    assert "3 answers hold the model's thoughts" in said and "3 answers were cut" in said
    assert result.counts["cut_answers"] == 3


def test_an_index_is_searched_with_its_own_model(tmp_path: Path, qa: Path) -> None:
    from diffembed.index import Index

    folder = tmp_path / "my.index"
    with Index.create(folder, model="default") as index:
        index.upsert([{"id": row["_id"], "text": row["text"]} for row in CORPUS])
    with stub_server(knows) as stub:
        reader = Reader(Client(stub.url, "stub-1b"))
        into = ResultFolder(tmp_path / "results")
        result, _ = evaluate_rag(read_questions(qa), open_passages(folder), reader, top=4, into=into)
        assert result.model == "default"
        assert result.scores["match"] == pytest.approx(2 / 3), "all four passages are shown"
        with Index.open(folder) as index:
            assert result.settings["dims"] == index.settings.dims
        assert result.counts["documents"] == 4
        assert evaluate_rag(read_questions(qa), open_passages(folder), reader, top=4, into=into)[1]
        with Index.open(folder) as index:
            index.delete(["p1"])
        assert not evaluate_rag(read_questions(qa), open_passages(folder), reader, top=4, into=into)[1]
    with pytest.raises(InputError, match="searched with the model that made it"):
        open_passages(folder, "bm25")
    with pytest.raises(InputError, match="searched with the model that made it"):
        open_passages(folder, dtype="binary")


def test_prompts() -> None:
    with pytest.raises(InputError, match="no {question}"):
        Prompt(user="Answer: {passages}")
    assert Prompt().mark != Prompt(system="").mark


def test_the_command(qa: Path, passages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    prompt = tmp_path / "prompt.toml"
    prompt.write_text('system = "Be brief."\nuser = "{passages}\\nQuestion: {question}"\n', encoding="utf-8")
    into = tmp_path / "results"
    base = ["evaluate", "rag", "--questions", str(qa), "--passages", str(passages), "--model", "bm25"]
    base += ["--into", str(into), "--llm", "stub-1b", "--key-env", "MY_KEY", "--attempts", "1"]
    with stub_server(knows) as stub:
        call = [*base, "--server", stub.url, "--top", "2", "--prompt", str(prompt), "--extra", '{"top_p": 0.9}']
        ran = invoke(*call, "--json")
        assert ran.json["scores"]["match"] == pytest.approx(2 / 3)
        assert "by_query" not in ran.json
        shown = invoke(*call)
        assert shown.code == 0 and "match" in shown.stdout and "measured before" in shown.stderr
        body = stub.requests[0][2]
        assert body["top_p"] == 0.9 and body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert stub.requests[0][1]["Authorization"] == f"Bearer {KEY}"
        stub.script = lambda number, body: ("status", 401, {}, f'{{"error": "bad key {KEY}"}}'.encode())
        refused = invoke(*base, "--server", stub.url, "--top", "3")
        refused.fails(1, "answered 401")
        said = [ran.stdout, ran.stderr, shown.stdout, shown.stderr, refused.stderr]
    for file in (path for path in into.rglob("*") if path.is_file()):
        said.append(file.read_text(encoding="utf-8"))
    assert not any(KEY in text for text in said)
    gone = invoke(*base, "--server", stub.url)
    gone.fails(1, "does the server run")
    invoke(*base[:-6], "--server", stub.url).fails(2, "--server and --llm belong together")
    invoke(*base, "--server", stub.url, "--extra", "[1]").fails(1, "does the server run")


def test_wrong_options_of_the_command(qa: Path, passages: Path, tmp_path: Path) -> None:
    base = ["evaluate", "rag", "--questions", str(qa), "--passages", str(passages), "--into", str(tmp_path / "r")]
    with stub_server(knows) as stub:
        asked = [*base, "--model", "bm25", "--server", stub.url, "--llm", "stub-1b"]
        invoke(*asked, "--extra", "[1]").fails(2, "--extra must be a JSON object")
        bad = tmp_path / "prompt.toml"
        bad.write_text('users = "x"\n', encoding="utf-8")
        invoke(*asked, "--prompt", str(bad)).fails(2, "expected 'user'")
    invoke(*base[:4], "--passages", str(tmp_path / "none")).fails(2, "is not a folder")
    invoke("evaluate", "rag", "--questions", str(tmp_path / "none.jsonl"), "--passages", str(passages)).fails(2, "file")


def test_a_killed_run_goes_on(tmp_path: Path, passages: Path) -> None:
    """SIGKILL in the middle of the answers: none that came is asked for again, and the score is that of one run."""
    questions = [{"id": str(n), "question": f"capital of Peru {n}", "answers": ["Lima"]} for n in range(60)]
    qa = tmp_path / "many.jsonl"
    qa.write_text("".join(json.dumps(row) + "\n" for row in questions), encoding="utf-8")

    killed = threading.Event()

    def until_killed(number: int, body: dict[str, Any]) -> str:
        if number > 20:
            killed.wait(60)
        return "Lima"

    into = tmp_path / "results"
    call = [
        "evaluate",
        "rag",
        "--questions",
        str(qa),
        "--passages",
        str(passages),
        "--model",
        "bm25",
        "--into",
        str(into),
    ]
    with stub_server(until_killed) as stub:
        call += ["--server", stub.url, "--llm", "stub-1b", "--at-once", "2"]
        env = {**os.environ, "PYTHONPATH": str(REPO / "src")}
        running = subprocess.Popen([sys.executable, "-m", "diffembed", *call], env=env, stderr=subprocess.DEVNULL)
        # 21 answered, and the two that may be under way together
        for _ in _until(lambda: len(stub.requests) == 23 or running.poll() is not None):
            pass
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        killed.set()
        file = into / "answers" / "stub-1b.jsonl"
        whole = file.read_bytes().count(b"\n")
        assert whole == 21
        ran = invoke(*call, "--json")
        assert ran.json["scores"]["match"] == 1
        assert len(stub.requests) - 23 == 60 - whole


def _until(there: Callable[[], bool], seconds: float = 60.0) -> Iterator[None]:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)
        yield
