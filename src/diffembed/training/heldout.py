"""How well a backbone predicts held-out text: cross-entropy and accuracy by mask rate, and the bound on likelihood.

The bound (negative ELBO) is given in nats a token and in bits a byte of the text that the tokens stand for, which can
be compared between tokenizers. It does not depend on the noise schedule that the model was trained with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from diffembed.data.sources import held_out_texts
from diffembed.models.embedder import Embedder
from diffembed.objectives.cross_entropy import token_scores
from diffembed.objectives.denoising import masked_at, next_token
from diffembed.objectives.targets import Targets
from diffembed.text.batching import PackedBatch, batches_by_tokens, pack
from diffembed.training.batches import whole
from diffembed.training.configs import StageConfig
from diffembed.training.lm import target_states
from diffembed.training.tokenizer import EOT_ID

MASK_RATES = (0.1, 0.3, 0.5, 0.7, 0.9)
STRATA = 16


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out sequences.

    Attributes:
        batches: packed.
        bytes: UTF-8 bytes of the texts that the sequences stand for.
        bytes_after_first: the same without each sequence's first token, which a shifted model does not predict.
    """

    batches: tuple[PackedBatch, ...]
    bytes: int
    bytes_after_first: int


def read_held_out(
    stage: StageConfig,
    tokenizer: Tokenizer,
    data_root: Path,
    *,
    texts: int = 60,
    eot_token_id: int = EOT_ID,
    cache: Path | None = None,
) -> HeldOut:
    """Beginnings of held-out texts, spread evenly over the stage's sources; without batches where there are none.

    Args:
        texts: about how many, over all sources.
        cache: the folder with the counts of the corpus files (``TextData``).
    """
    sequences, all_bytes, after_first = [], 0, 0
    for source in stage.source:
        share = max(1, texts // len(stage.source))
        languages = tuple(source.languages)
        for text in held_out_texts(data_root, source.paths, share, languages=languages, cache=cache)[:texts]:
            shown = text[: stage.sequence_tokens * 10]
            encoding = tokenizer.encode(shown, add_special_tokens=False)
            ids, offsets = encoding.ids[: stage.sequence_tokens - 1], encoding.offsets[: stage.sequence_tokens - 1]
            sequences.append(whole([*ids, eot_token_id]))
            if offsets:
                all_bytes += len(shown[: offsets[-1][1]].encode())
                after_first += len(shown[offsets[0][1] : offsets[-1][1]].encode())
    groups = batches_by_tokens([len(s) for s in sequences], stage.micro_tokens)
    return HeldOut(tuple(pack([sequences[i] for i in group]) for group in groups), all_bytes, after_first)


def held_out_losses(stage: StageConfig, embedder: Embedder, found: HeldOut, mask_token_id: int) -> dict[str, float]:
    """The held-out figures of a language-model stage: next-token ones if it is causal, else those of denoising."""
    if stage.kind == "causal":
        return causal_losses(embedder, found)
    return denoising_losses(embedder, found, mask_token_id=mask_token_id, shift=stage.predicts_next)


def denoising_losses(
    embedder: Embedder, found: HeldOut, *, mask_token_id: int, shift: bool, seed: int = 0
) -> dict[str, float]:
    """``mask_R`` (nats a masked token) and ``accuracy_R`` by mask rate R; the bound in nats a token and bits a byte.

    The bound integrates (1/r) x the summed cross-entropy over the mask rate r, at the midpoints of 16 strata, with the
    same masks at every call. The mask token is never a target and has probability 0, as in ``infill``. The end-of-text
    token counts as a token and has no bytes.
    """
    nats, accuracy = {}, {}
    for rate in MASK_RATES:
        generator = np.random.default_rng(seed)
        total = right = count = 0.0
        for batch in found.batches:
            targets = masked_at(batch, generator, mask_token_id=mask_token_id, shift=shift, rate=rate)
            losses, hits = _scores(embedder, targets)
            total, right, count = total + losses.sum(), right + hits.sum(), count + len(hits)
        nats[f"mask_{rate:.1f}"], accuracy[f"accuracy_{rate:.1f}"] = _ratio(total, count), _ratio(right, count)
    bound = eligible = 0.0
    for rate in ((np.arange(STRATA) + 0.5) / STRATA).tolist():
        generator = np.random.default_rng((seed, int(rate * 1000)))
        for batch in found.batches:
            targets = masked_at(batch, generator, mask_token_id=mask_token_id, shift=shift, rate=rate)
            bound += float((_scores(embedder, targets)[0] * targets.weights).sum())
            eligible += targets.eligible
    size = found.bytes_after_first if shift else found.bytes
    bounds = {
        "elbo_nats_per_token": _ratio(bound, eligible),
        "elbo_bits_per_byte": _ratio(bound / STRATA, size * math.log(2)),
    }
    return _known(nats | bounds | accuracy)


def causal_losses(embedder: Embedder, found: HeldOut) -> dict[str, float]:
    """Next-token cross-entropy in nats a token and bits a byte, and how often the most probable token is right."""
    total = right = count = 0.0
    for batch in found.batches:
        losses, hits = _scores(embedder, next_token(batch))
        total, right, count = total + losses.sum(), right + hits.sum(), count + len(hits)
    return _known(
        {
            "next_token_nats": _ratio(total, count),
            "next_token_bits_per_byte": _ratio(total, found.bytes_after_first * math.log(2)),
            "next_token_accuracy": _ratio(right, count),
        }
    )


@torch.no_grad()
def _scores(embedder: Embedder, targets: Targets) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Cross-entropy (float64 nats) and hit of every target."""
    if not len(targets.rows):
        return np.zeros(0), np.zeros(0, dtype=bool)
    states = target_states(embedder, targets)
    ids = torch.from_numpy(targets.target_ids).to(states.device)
    nats, right = token_scores(states, embedder.output_table(), ids, excluded=targets.excluded)
    return nats.double().cpu().numpy(), right.cpu().numpy()


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else math.nan


def _known(figures: dict[str, float]) -> dict[str, float]:
    """Without the figures that too little text leaves open: no token was masked at that rate."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
