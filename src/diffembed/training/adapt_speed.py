"""What is measured before an adaptation begins: whether the model can still fill in, how many steps fit into a time."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from diffembed.data.own_work import ROWS, TEXT
from diffembed.models.checkpoint import ModelConfig
from diffembed.models.embedder import Embedder
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.objectives.cross_entropy import token_scores
from diffembed.objectives.denoising import masked_at
from diffembed.text.batching import TokenizedSequence, pack
from diffembed.training.adapt_recipe import AdaptSettings
from diffembed.training.batches import whole
from diffembed.training.configs import RunConfig
from diffembed.training.lm import target_states
from diffembed.training.machine import settle_machine

_TEXTS, _TEXT_TOKENS = 16, 256
_ROWS = 200
_QUERY_TOKENS, _DOCUMENT_TOKENS = 64, 192  # that a source of pairs reads unless told otherwise
_OVERHEAD = 1.25  # of a step over its passes: reading, the loss, the optimiser


@torch.no_grad()
def fills_in(source: Path, config: ModelConfig, work: Path) -> tuple[float, float]:
    """How well a model predicts the masked half of some of the folder's text.

    Returns:
        Nats a masked token, and those of a guess that gives every token of the vocabulary the same chance.
    """
    loaded = load_pretrained(source)
    embedder = Embedder(loaded.model, loaded.head)
    texts = [json.loads(line)["text"] for line in _lines(work / TEXT, _TEXTS)]
    ids = [loaded.tokenizer.encode(text, add_special_tokens=False).ids[:_TEXT_TOKENS] for text in texts]
    batch = pack([whole(own) for own in ids if len(own) > 1])
    generator = np.random.default_rng(0)
    targets = masked_at(batch, generator, mask_token_id=loaded.mask_token_id, shift=config.shift, rate=0.5)
    states, table = target_states(embedder, targets), embedder.output_table()
    nats, _ = token_scores(states, table, torch.from_numpy(targets.target_ids), excluded=targets.excluded)
    return float(nats.double().mean()), math.log(len(table))


def steps_in(seconds: float, source: Path, work: Path, settings: AdaptSettings) -> int:
    """How many steps of pairs this machine makes in a time, by one that is made twice; at least one."""
    machine = settle_machine(RunConfig("speed", ".", ".", threads=settings.threads))
    loaded = load_pretrained(source)
    embedder = Embedder(loaded.model, loaded.head).to(machine.device)
    sequences = _rows(loaded, work, settings.batch)
    taken = 0.0
    for _ in range(2):  # the first one warms up
        begin = time.perf_counter()
        with machine.autocast():
            loss = embedder(pack(sequences)).float().square().mean()
        machine.backward(loss)
        taken = time.perf_counter() - begin
        embedder.zero_grad()
    return max(1, int(seconds / (taken * _OVERHEAD * settings.batch / min(settings.batch, _ROWS))))


def _rows(loaded: LoadedBackbone, work: Path, batch: int) -> list[TokenizedSequence]:
    rows = [json.loads(line) for line in _lines(work / ROWS, min(batch, _ROWS))]
    found = []
    for name, limit in (("query", _QUERY_TOKENS), ("document", _DOCUMENT_TOKENS)):
        encoded = loaded.tokenizer.encode_batch([row[name] for row in rows], add_special_tokens=False)
        found += [whole(e.ids[:limit] or [loaded.eot_token_id]) for e in encoded]
    return found


def _lines(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return list(itertools.islice(file, count))
