"""A study of a few thousand weights over sets written on the spot, which runs through in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.data.corpora import write_beir, write_folder, write_texts

TEXT = """
[run]
name = "study"
output = "out"
data_root = "data"
threads = 1
precision = "float32"
save_seconds = {save_seconds}
log_every = 1
[tokenizer]
vocab_size = 300
paths = ["texts.jsonl", "short"]
[model]
hidden_size = 16
layers = 2
heads = 2
kv_heads = 1
head_dim = 8
intermediate_size = 24
max_tokens = 64
[grid]
seeds = {seeds}
backbones = {backbones}
poolings = {poolings}
references = {references}
keep_models = {keep_models}
[base]
steps = 3
batch = 256
lr = 1e-2
sequence_tokens = 32
[[base.source]]
name = "texts"
paths = ["texts.jsonl"]
[adapt]
steps = 4
batch = 256
lr = 1e-2
sequence_tokens = 32
alignment_weight = 1.0
[[adapt.source]]
name = "texts"
paths = ["texts.jsonl"]
[tune]
steps = {tune_steps}
batch = 8
lr = 1e-2
warmup = 2
[[tune.source]]
name = "judged"
kind = "pairs"
paths = ["short"]
[[tune.source]]
name = "spans"
kind = "spans"
paths = ["texts.jsonl"]
query_tokens = 8
document_tokens = 24
[measure]
draws = 200
[[measure.set]]
path = "short"
family = "short"
split = "all"
queries = 12
documents = 20
[[measure.set]]
path = "long"
family = "long"
split = "all"
[[measure.set]]
path = "chunked"
family = "contextual"
split = "all"
queries = 6
documents = 9
{more}
"""
PARTS = """
[samples]
steps = [2]
backbones = ["opened"]
poolings = ["mask"]
families = ["short"]
[attention]
backbones = ["opened"]
poolings = ["mask"]
families = ["short", "contextual"]
[operations]
backbones = ["diffusion-aligned"]
poolings = ["mask"]
families = ["short"]
"""
USUAL: dict[str, Any] = {
    "save_seconds": 300.0,
    "seeds": "[1, 2]",
    "backbones": '["causal", "opened", "diffusion-aligned"]',
    "poolings": '["mask"]',
    "references": '["causal/mask"]',
    "keep_models": "true",
    "tune_steps": 4,
    "more": PARTS,
}


def write_study(folder: Path, **changes: Any) -> Path:
    """A study and its data in ``folder``; the path of its file."""
    data = folder / "data"
    write_beir(data / "short")
    words = "owl fox river stone light window garden number letter bridge winter morning".split()
    lines = [" ".join(words[(i * 7 + j * j) % 12] for j in range(40)) for i in range(120)]
    write_texts(data / "texts.jsonl", [f"{i} {line}" for i, line in enumerate(lines)])
    long = [{"_id": f"d{i}", "text": f"number {i} " + " ".join(words[: i + 1]) * (1 + i * 2)} for i in range(12)]
    asked = {f"q{i}": f"number {i} {words[i]}" for i in range(12)}
    write_folder(data / "long", long, asked, [(f"q{i}", f"d{i}") for i in range(12)])
    chunks = [
        {"_id": f"{d}-{i}", "text": f"{words[d]} {words[i + 4]} part {i}", "doc_id": f"doc{d}", "chunk_idx": i}
        for d in range(6)
        for i in range(3)
    ]
    about = {f"{d}-{i}": f"{words[d]} {words[i + 4]}" for d in range(6) for i in range(3)}
    write_folder(data / "chunked", chunks, {f"q{k}": t for k, t in about.items()}, [(f"q{k}", k) for k in about])
    path = folder / "study.toml"
    path.write_text(TEXT.format(**(USUAL | changes)), encoding="utf-8")
    return path
