"""What recipes of tests have in common: a tokenizer, a model of a few thousand weights, where pairs come from."""

from __future__ import annotations

SHAPE = """[tokenizer]
vocab_size = 300
paths = ["texts.jsonl", "set"]
[model]
hidden_size = 32
layers = 2
heads = 2
kv_heads = 1
head_dim = 16
intermediate_size = 48
max_tokens = 128
"""
PAIRS_AND_SPANS = """[[stage.source]]
name = "judged"
kind = "pairs"
paths = ["set"]
[[stage.source]]
name = "spans"
kind = "spans"
paths = ["texts.jsonl"]
query_tokens = 8
document_tokens = 24
"""
