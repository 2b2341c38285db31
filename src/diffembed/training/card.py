"""The model card of a finished run: data, steps, cost and scores by stage, from what the run recorded.

Scores beside other models come from a benchmark, not from the run: the card holds the block that
``benchmarks/readme_tables.py`` fills from its result file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffembed.models.checkpoint import ModelConfig

QUALITY_BLOCKS = """
## Scores beside BM25 and all-MiniLM-L6-v2

nDCG@10 on the development queries of every set (one query in ten, none of them trained on; the corpora are shared with
training, as raw text and as documents of other queries). int8 vectors, int8 weights, whole corpora.
all-MiniLM-L6-v2 was not trained on these sets; this model was trained on the train queries of most. MiniLM's vectors
are float32, it reads 256 tokens of a text, and the command below the table says what it was computed in. What signs
cost in place of int8 stands in the project's README (quantization).

<!-- figures:quality-{name}
columns: this model = default, bm25 = bm25, MiniLM = minilm
mean of the English sets = mean-english.*.ndcg@10
ratio to bm25, English = mean-english.*.to-bm25
English sets scored = mean-english.*.sets
mean of the code sets = mean-code.*.ndcg@10
mean of the cross-lingual sets = mean-cross-lingual.*.ndcg@10
mean of the sets in one other language = mean-other.*.ndcg@10
each = *.ndcg@10
-->
<!-- /figures -->
"""


def model_card(config: ModelConfig, stages: Mapping[str, Mapping[str, Any]], *, measured: bool) -> str:
    """Markdown of the card.

    Args:
        config: of the finished model; its manifest lists the stages.
        stages: scores by stage name, as the run kept them.
        measured: add the block for the scores of ``benchmarks/quality.py``.
    """
    manifest = config.manifest
    chain = [*manifest["earlier"], {k: manifest[k] for k in ("stage", "training", "data")}]
    seconds = sum(s["training"]["seconds"] for s in chain)
    tokens = sum(s["training"]["tokens"] for s in chain)
    widths = ", ".join(map(str, config.dims))
    lines = [
        "---",
        "library_name: diffembed",
        "pipeline_tag: feature-extraction",
        "tags: [sentence-transformers, feature-extraction]",
        "---",
        "",
        f"# {config.name}",
        "",
        _origin(manifest),
        "",
        f"Vectors: {widths} dimensions, float32, int8 or binary; compare them by cosine (int8 vectors are not unit "
        f"length). Input: up to {config.max_tokens:,} tokens. No prefixes. Made by `{manifest['command']}`, "
        f"seed {manifest['seed']}.",
        "",
        "```python",
        "from diffembed import Encoder",
        "",
        'Encoder.load("default").encode_documents(["a text"], dtype="int8")',
        "```",
        "",
        "## Training",
        "",
        f"{tokens / 1e6:.1f} million tokens in {seconds / 3600:.1f} hours on {chain[-1]['training']['device']} "
        f"({chain[-1]['training']['precision']}), with {_versions(manifest['versions'])}.",
        "",
        "| stage | steps | tokens | minutes |",
        "| --- | ---: | ---: | ---: |",
    ]
    for stage in chain:
        t = stage["training"]
        lines.append(f"| {stage['stage']} | {t['steps']:,} | {t['tokens']:,} | {t['seconds'] / 60:.0f} |")
    lines += ["", *_stage_scores(stages), "## Data", ""]
    for stage in chain:
        lines.append(f"- **{stage['stage']}**: " + "; ".join(_source(n, s) for n, s in stage["data"].items()))
    if not manifest.get("base"):
        lines += ["", *LIMITS]
    if measured:
        lines.append(QUALITY_BLOCKS.format(name=config.name))
    return "\n".join(lines).rstrip() + "\n"


def _origin(manifest: Mapping[str, Any]) -> str:
    learns = (
        "it learns to fill in masked tokens (masked diffusion), and then which documents answer which queries, through "
        "an int8 quantizer."
    )
    if base := manifest.get("base"):
        return f"A text embedder made from {base['checkpoint']}: its attention mask is opened, {learns}"
    return (
        "A text embedder made from scratch: a Qwen3-shaped decoder is trained to predict the next token, its attention "
        f"mask is opened, {learns}"
    )


LEXICAL = (
    "A row that ends in `-start` is the stage's lexical start, before its first step: the token table of the stage "
    "before is whitened and weighted by inverse document frequency, and the layers' outputs are damped, so that the "
    "model begins as a weighted bag of words. What the pairs add is the difference between that row and the next."
)

LIMITS = (
    "Only the train side of every set's queries was used for judged pairs; the texts come under the licences that the "
    "data folder's README names for each set.",
    "",
    "## What it is not good at",
    "",
    "It is small and was trained for hours, not weeks: it knows far less of the world than models pretrained on "
    "billions of tokens. Expect it to match words and their close relatives well, paraphrase and reasoning poorly. "
    "Languages outside its training data, and scripts other than Latin, have few tokens of their own and weaker "
    "vectors; translation between languages is weak. Text is lower-cased and white space is not seen, so case and "
    "layout carry no meaning for it. Most training texts had under 200 tokens: longer ones work but are less sure; "
    "cut them into chunks. It was not trained on chunks in context (`contextual` is false).",
)


def _stage_scores(stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    scored = {name: s["ndcg@10"] for name, s in stages.items() if "ndcg@10" in s}
    lines = []
    if scored:
        sets = list(next(iter(scored.values())))
        lines += ["nDCG@10 after each stage (dev queries, int8 vectors, fp32 weights):", ""]
        lines += [f"| | {' | '.join(sets)} |", f"| --- |{' ---: |' * len(sets)}"]
        lines += [f"| {name} | {' | '.join(f'{s[k]:.3f}' for k in sets)} |" for name, s in scored.items()]
        lines.append("")
        if any(name.endswith("-start") for name in scored):
            lines += [LEXICAL, ""]
    for name, s in stages.items():
        if "held_out_before" in s:
            keys = list(s["held_out_before"])
            lines += [
                f"Held-out text, stage {name} (nats a predicted token; `elbo` is the diffusion bound a token):",
                "",
            ]
            lines += [f"| | {' | '.join(keys)} |", f"| --- |{' ---: |' * len(keys)}"]
            for when in ("before", "after"):
                values = s[f"held_out_{when}"]
                lines.append(f"| {when} | {' | '.join(f'{values[k]:.3f}' for k in keys)} |")
            lines.append("")
    return lines


def _source(name: str, source: Mapping[str, Any]) -> str:
    return f"{name} ({source['rows']:,} rows of {', '.join(source['paths'])})"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
