"""What an index promises when things go wrong, at length: the tests that CI runs briefly, run for long.

    python benchmarks/durability.py [--operations 20000] [--kills 100] [--quick]

Nothing is timed here that is compared with anything; a test that fails ends this without a result. NAME is `records` or
`vectors` (an index of documents, or of vectors only), with segments that are `scanned` or `sealed` with a coarse index.

    operations.NAME.{scanned,sealed}.operations   random adds, upserts, deletes, compactions, reopenings and searches
                                                  against a plain dictionary; .searches of them, .kills: kill -9 of the
                                                  writer at a random moment; .seed repeats a run (DIFFEMBED_MODEL_SEED)
    operations.NAME.*.found_of_the_nearest        of the 10 or fewer nearest, by a search that need not be exact
    indexing.kills                                kill -9 while a folder is indexed, at random moments
    flips.{sealed_catalog,open_catalog}.flips     bytes of a small index, each flipped once, the index asked: an error
                                                  or the right answer; without the seal of the catalog, which large ones
                                                  do not have, nothing false and `verify` names what is wrong
    *.seconds
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from _common import REPOSITORY, parser, progress, report

TESTS = {
    "tests/index/test_operations.py::test_records[scanned]": "operations.records.scanned",
    "tests/index/test_operations.py::test_records[sealed]": "operations.records.sealed",
    "tests/index/test_operations.py::test_vectors_only[scanned]": "operations.vectors.scanned",
    "tests/index/test_operations.py::test_vectors_only[sealed]": "operations.vectors.sealed",
    "tests/index/test_crash.py::test_kill_at_random_moments": "indexing",
    "tests/index/test_checking.py::test_every_byte_flipped": "flips.sealed_catalog",
    "tests/index/test_checking.py::test_without_a_seal_no_hit_is_wrong": "flips.open_catalog",
}


def main() -> None:
    options = parser("durability", __doc__)
    options.add_argument("--operations", type=int, default=20_000, help="of each of the four kinds")
    options.add_argument("--kills", type=int, default=100, help="while a folder is indexed")
    options.add_argument("--processes", type=int, default=2, help="tests at the same time")
    args = options.parse_args()
    long = {
        "DIFFEMBED_MODEL_OPERATIONS": str(args.operations),
        "DIFFEMBED_KILLS": str(args.kills),
        "DIFFEMBED_FLIPS": "all",
    }
    progress("the tests of " + ", ".join(dict.fromkeys(test.partition("::")[0] for test in TESTS)))
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", str(args.processes), f"--junitxml={found}", *TESTS],
            cwd=REPOSITORY,
            env=os.environ | ({} if args.quick else long) | {"OMP_NUM_THREADS": "1"},
            stdout=sys.stderr,
        )
        if done.returncode:
            raise SystemExit(f"a test failed (pytest ended with {done.returncode}); what it printed stands above")
        cases = list(ElementTree.parse(found).iter("testcase"))
    metrics: dict[str, float] = {}
    for case in cases:
        name = TESTS[f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"]
        for given in case.iter("property"):
            metrics[f"{name}.{given.attrib['name']}"] = float(given.attrib["value"])
        metrics[f"{name}.seconds"] = float(case.attrib["time"])
    report(args, metrics, notes="every test passed; seconds include waiting for processes that are started and killed")


if __name__ == "__main__":
    main()
