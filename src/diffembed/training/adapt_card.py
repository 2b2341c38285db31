"""The model card of an adapted model, from its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def adapt_card(report: Mapping[str, Any], name: str, model: str) -> str:
    """Markdown of the card: figures before and after, and what they rest on.

    Args:
        report: as ``AdaptReport.to_dict`` gives it.
        model: what the adaptation began from.
    """
    pairs = ", ".join(f"{count:,} from {origin}" for origin, count in sorted(report["pairs"].items()))
    lines = [
        "---",
        "library_name: diffembed",
        "pipeline_tag: feature-extraction",
        "tags: [sentence-transformers, feature-extraction]",
        "---",
        "",
        f"# {name}",
        "",
        f"`{model}` adapted to a folder of {sum(report['documents'].values()):,} documents by `diffembed adapt`, "
        f"without labels: {report['steps']} steps over {sum(report['pairs'].values()):,} pairs that the documents "
        f"make of themselves ({pairs}). Then {report['share']:g} of the result and {1 - report['share']:g} of the "
        "model as it was were merged (slerp).",
        "",
        "| | nDCG@10 before | after | recall@10 before | after |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    held_out = f"held-out documents of the folder ({report['questions']['heldout']:,} questions)"
    for title, scores in ((held_out, report["held_out"]), *report["general"].items()):
        cells = [f"{scores[when][metric]:.4f}" for metric in ("ndcg@10", "recall@10") for when in ("before", "after")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        "int8 vectors, int8 weights. The questions of the held-out documents are made as those of training are: "
        "headings, first sentences, comments, with their words taken out of the answers. They say that the folder "
        "is searched better, not how well people's own questions are answered.",
    ]
    if not report["general"]:
        lines.append("\nNo general set was given: what the adaptation costs elsewhere was not measured.")
    diffusion = report["diffusion"]
    lines += [
        "",
        f"Masked diffusion on the folder's text: {'yes' if diffusion['done'] else 'no'} ({diffusion['why']}).",
    ]
    return "\n".join(lines) + "\n"
