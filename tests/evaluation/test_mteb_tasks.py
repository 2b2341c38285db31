"""Names of mteb: what they stand for, what is near them, and what is left out."""

from __future__ import annotations

import sys

import pytest

from diffembed.errors import InputError, MissingExtraError
from diffembed.evaluation.mteb_tasks import Listed, benchmark_rows, find_tasks

pytest.importorskip("mteb")

import mteb


@pytest.mark.parametrize(
    ("name", "retrieval", "left_out"),
    [
        ("MTEB(Multilingual, v2)", {"Retrieval": 18, "InstructionReranking": 3}, 110),
        ("MTEB(Code, v1)", {"Retrieval": 12}, 0),
        ("BRIGHT(v1.1)", {"Retrieval": 20}, 0),
        ("LongEmbed", {"Retrieval": 6}, 0),
        ("FollowIR", {"InstructionReranking": 3}, 0),
    ],
)
def test_published_benchmarks(name: str, retrieval: dict[str, int], left_out: int) -> None:
    found = find_tasks(name)
    types = [task.metadata.type for task in found.tasks]
    assert {kind: types.count(kind) for kind in types} == retrieval
    assert (found.benchmark, len(found.left_out)) == (name, left_out)


def test_benchmarks_are_found_whatever_their_case() -> None:
    assert find_tasks("MTEB(Code)").benchmark == "MTEB(Code, v1)"
    assert find_tasks("longembed").benchmark == "LongEmbed"
    folded = [name.casefold() for one in mteb.get_benchmarks() for name in (one.name, *(one.aliases or ()))]
    assert len(folded) == len(set(folded)), "no two differ in case alone"


def test_published_tasks() -> None:
    for name in ("MIRACLRetrieval", "MIRACLRetrievalHardNegatives", "ToolBench", "Gorilla", "NFCorpus"):
        found = find_tasks(name)
        assert (found.benchmark, [task.metadata.name for task in found.tasks]) == ("mteb", [name])


def test_types() -> None:
    found = find_tasks("MTEB(Multilingual, v2)", types=["STS", "Reranking"])
    assert {task.metadata.type for task in found.tasks} == {"STS", "Reranking"}
    assert len(find_tasks("MTEB(Multilingual, v2)", types=["all"]).tasks) == 131
    with pytest.raises(InputError, match=r"no tasks of type 'Poetry'; there are BitextMining, "):
        find_tasks("MTEB(Multilingual, v2)", types=["Poetry"])
    with pytest.raises(InputError, match=r"CodeRAG has no tasks of type Retrieval.*; give --types with some of"):
        find_tasks("CodeRAG")


def test_languages() -> None:
    found = find_tasks("MIRACLRetrieval", languages=["swa", "deu"])
    assert sorted(found.tasks[0].hf_subsets) == ["de", "sw"]
    assert len(find_tasks("MIRACLRetrieval").tasks[0].hf_subsets) == 18  # mteb's object was not changed
    english = find_tasks("MTEB(Multilingual, v2)", languages=["eng"])
    assert 0 < len(english.tasks) < 21
    narrowed = next(task for task in english.tasks if task.metadata.name == "MIRACLRetrievalHardNegatives")
    assert narrowed.hf_subsets == ["en"]
    with pytest.raises(InputError, match="no task of NFCorpus is in deu"):
        find_tasks("NFCorpus", languages=["deu"])


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'nfcorpus' is neither .*\(nearest: NFCorpus, ") as caught:
        find_tasks("nfcorpus", verbs=["retrieval"])
    assert "diffembed evaluate --list" in str(caught.value)
    with pytest.raises(InputError, match=r"nearest: retrieval"):
        find_tasks("retreival", verbs=["retrieval", "sets"])
    with pytest.raises(InputError, match=r"nearest: MTEB\(Multilingual, v2\)"):
        find_tasks("MTEB(Multilingual,v2)")
    with pytest.raises(InputError, match="only tasks on text"):
        find_tasks("CIRRIT2IRetrieval")


def test_without_mteb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtraError, match=r"retreival is no verb .*\(nearest: retrieval\).*diffembed\[mteb\]"):
        find_tasks("retreival", verbs=["retrieval"])


def test_sizes_as_far_as_mteb_knows_them() -> None:
    listed = Listed.of(mteb.get_task("NFCorpus"))
    assert (listed.queries, listed.documents, listed.dataset) == (323, 3633, "mteb/nfcorpus")
    unknown = Listed.of(mteb.get_task("BrightAopsRetrieval"))
    assert (unknown.queries, unknown.measure) == (None, "ndcg_at_10")
    rows = {name: (tasks, retrieval) for name, tasks, retrieval in benchmark_rows()}
    assert rows["MTEB(Multilingual, v2)"] == (131, 21)
