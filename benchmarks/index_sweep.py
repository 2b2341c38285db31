"""Which coarse index: variants of faiss over the same vectors, rescored alike; the table that `index/` was built from.

    python benchmarks/_passages.py --data ../shared/data --work out/search      (once; hours)
    python benchmarks/index_sweep.py [--work out/search] [--dims 384] [--rows 1000000] [--only VARIANT] [--quick]

Every variant is built in a process of its own over vectors grown from real ones (`_grown.py`), and asked with every
pair of probes and candidates (with more probes only until 0.95 is found). What is reported is the fastest setting that
finds 0.90 and 0.95 of the exact ten; the queries are held-out passages and questions in turns, one at a time, one
thread. Finished variants are kept under `--work`: a run that was stopped goes on, and `--only` adds to what is there.

    DIMS.VARIANT.{90,95}.{recall_at_10,p50_ms,p95_ms,probes,candidates}   left out where no setting finds as much
    DIMS.VARIANT.{ram_mb,disk_mb,build_seconds}                          anonymous memory; codes alone, without the rows
    DIMS.{cosine_top1,...}                                               how hard the set is
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from _common import parser, progress, report
from _grown import Grown, recall
from _search_peers import Binary, Faiss, Rescored, percentiles, resident_mb, rows_file, timed
from diffembed.index.coarse import Coarse
from diffembed.index.coarse_build import Codes, Design, build_coarse

WIDTHS = (256, 384, 512, 1024)
WANTED = (0.90, 0.95)


class Ours(Rescored):
    """The index of `index/coarse.py`, with each of its codes."""

    def __init__(self, codes: Codes) -> None:
        self.codes = codes

    def build(self, grown: Grown, folder: Path) -> None:
        super().build(grown, folder)
        path = folder / f"ours-{grown.dims}-{grown.rows}-{self.codes}.coarse"
        path.unlink(missing_ok=True)
        work = path.with_suffix(".work")
        build_coarse(self.rows, path, work, design=Design(codes=self.codes))
        for part in work.iterdir():
            part.unlink()
        work.rmdir()
        self.coarse = Coarse(path, rows=grown.rows, dims=grown.dims)
        self.settings = [(p, c) for p in PROBES_OURS if p <= self.coarse.lists for c in (20, 50, 100, 200, 400, 1000)]

    def named(self, query_D: Any, setting: tuple[int, ...]) -> Any:
        return self.coarse.search(query_D, probes=setting[0], candidates=setting[1])[0]

    def bytes(self) -> int:
        return self.coarse.bytes


PROBES_OURS = (8, 16, 32, 64, 128, 256, 512, 1024)
VARIANTS: dict[str, Any] = {
    "flat_hamming": lambda: Binary(False),
    "ivf_hamming": lambda: Binary(True),
    "ivf_rabitq": lambda: Faiss("IVF{lists},RaBitQ"),
    "ivf_rabitqfs": lambda: Faiss("IVF{lists},RaBitQfs"),
    "ivf_rabitqfs2": lambda: Faiss("IVF{lists},RaBitQfs2"),
    "ivf_pq4fs": lambda: Faiss("IVF{lists},PQ{quarter}x4fs"),
    "ivf_pq4fsr": lambda: Faiss("IVF{lists},PQ{quarter}x4fsr"),
    "ivf_pq2fs": lambda: Faiss("IVF{lists},PQ{half}x4fs"),
    "ivf_hnsw_pq2fs": lambda: Faiss("IVF{lists}_HNSW32,PQ{half}x4fs"),
    "ours_pq2": lambda: Ours("pq2"),
    "ours_pq4": lambda: Ours("pq4"),
    "ours_rabitq": lambda: Ours("rabitq"),
}


def main() -> None:
    options = parser("index_sweep", __doc__)
    options.add_argument("--work", type=Path, default=Path("out/search"), help="vectors, and what is finished")
    options.add_argument("--dims", type=int, action="append", choices=WIDTHS, help="may be repeated; all if not given")
    options.add_argument("--rows", type=int, default=1_000_000, help="vectors of each width")
    options.add_argument("--real", type=int, default=200_000, help="real vectors that they are grown from")
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--only", action="append", choices=VARIANTS, help="may be repeated")
    options.add_argument("--child", nargs=2, metavar=("DIMS", "VARIANT"), help="measure one and print its JSON")
    args = options.parse_args()
    if args.quick:
        args.rows, args.real, args.queries = min(args.rows, 60_000), min(args.real, 20_000), 200
    if args.child:
        grown = Grown(args.work, int(args.child[0]), args.rows, args.real)
        print(json.dumps(measure(grown, args.child[1], args.queries)))
        return
    metrics: dict[str, float] = {}
    for dims in args.dims or ((256,) if args.quick else WIDTHS):
        grown = Grown(args.work, dims, args.rows, args.real)
        metrics |= {f"{dims}.{name}": value for name, value in grown.difficulty(args.queries).items()}
        for variant in VARIANTS:
            kept = args.work / f"sweep-{dims}-{args.rows}-{args.real}-{variant}.json"
            if not kept.is_file() and variant in (args.only or VARIANTS):
                progress(f"{dims} dims: {variant}")
                run(args, dims, variant, kept)
            if kept.is_file():
                metrics |= {f"{dims}.{variant}.{k}": v for k, v in json.loads(kept.read_text()).items()}
    report(
        args, metrics, notes=f"{args.rows} vectors grown from {args.real} real ones, {args.queries} queries, 1 thread"
    )


def run(args: Any, dims: int, variant: str, kept: Path) -> None:
    """Measure one variant in a process of its own and keep what it found."""
    sizes = ["--rows", str(args.rows), "--real", str(args.real), "--queries", str(args.queries)]
    command = [sys.executable, __file__, "--work", str(args.work), *sizes, "--child", str(dims), variant]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        progress(f"{dims} dims: {variant} ended with {done.returncode}; it is left out")
        return
    kept.write_text(done.stdout)


def measure(grown: Grown, variant: str, count: int) -> dict[str, float]:
    """Build a variant and find its fastest settings."""
    import faiss

    exact, queries = grown.exact(count)[0][:, :10], grown.queries[:count]
    made = VARIANTS[variant]()
    rows_file(grown, grown.work)  # which all variants share
    before, start = resident_mb(), time.perf_counter()
    made.build(grown, grown.work)
    figures = {"build_seconds": time.perf_counter() - start + made.earlier_seconds, "disk_mb": made.bytes() / 1e6}
    faiss.omp_set_num_threads(1)
    points: list[tuple[float, float, tuple[int, ...]]] = []  # median ms, recall, setting
    enough: set[int] = set()  # candidates with which the last recall was reached: more probes would only cost time
    for setting in sorted(made.settings):
        if setting[-1] in enough:
            continue
        found = np.full((count, 10), -1)
        taken = []
        for number, query in enumerate(queries):
            begin = time.perf_counter()
            ten = made.search(query, setting)
            taken.append(1000 * (time.perf_counter() - begin))
            found[number, : len(ten)] = ten
        points.append((float(np.median(taken)), recall(found, exact), setting))
        if points[-1][1] >= max(WANTED):
            enough.add(setting[-1])
    figures["ram_mb"] = resident_mb() - before
    for wanted in WANTED:
        reaching = [point for point in points if point[1] >= wanted]
        if not reaching:
            continue
        _, reached, setting = min(reaching)
        again = percentiles(timed(lambda query, setting=setting: made.search(query, setting), queries))
        key = f"{wanted * 100:.0f}"
        figures |= {f"{key}.{name}": value for name, value in again.items() if name != "p99_ms"}
        figures |= {f"{key}.recall_at_10": reached, f"{key}.probes": setting[0], f"{key}.candidates": setting[-1]}
    return figures


if __name__ == "__main__":
    main()
