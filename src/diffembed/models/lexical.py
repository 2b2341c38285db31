"""A lexical start for an embedder: a backbone that begins as a weighted bag of words.

A mean over final-norm states counts every token alike, so a small model spends its first thousands of contrastive steps
learning that rare words matter more than frequent ones. This sets it so at once, as smooth inverse frequency does for
averaged word vectors (Arora et al. 2017, "A simple but tough-to-beat baseline for sentence embeddings"):

1. token rows are centred and whitened, so that two words are alike only where pretraining says more than frequency;
2. each row becomes ``w * row``, ``w`` growing with the inverse document frequency, and the mean over the texts' tokens
   is taken out, so that signs split the texts evenly: a binary vector has nothing else to tell them apart by;
3. what is missing to unit length goes on one dimension (the last), which the final norm's weight then sets to zero: the
   norm would otherwise stretch every row to one length again;
4. what the layers add to the residual stream is damped, so that the rows are what is pooled until training says more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from diffembed.errors import ModelError
from diffembed.models.backbone import token_embedding

_BOUNDS = (0.02, 0.98)


def frequency_weights(document_frequency: npt.NDArray[np.int64], documents: int) -> npt.NDArray[np.float64]:
    """``w`` of every token: inverse document frequency over its largest value, within 0.02 and 0.98.

    >>> frequency_weights(np.array([1000, 100, 1, 0]), documents=1000).round(2).tolist()
    [0.02, 0.33, 0.94, 0.98]
    """
    inverse = np.log((documents + 1) / (document_frequency + 0.5))
    weights: npt.NDArray[np.float64] = np.clip(inverse / np.log(documents), *_BOUNDS)
    return weights


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """``[vocab]`` in how many documents each token stands and how often in all, and how many documents were read."""

    in_documents: npt.NDArray[np.int64]
    in_all: npt.NDArray[np.int64]
    documents: int


@torch.no_grad()
def lexical_start(model: PreTrainedModel, counts: TokenCounts, *, damping: float = 1e-3) -> None:
    """Rewrite token rows, silence the last dimension of the final norm, damp the layers' output projections, in place.

    Args:
        model: a backbone of Qwen3's shape (``layers[i].self_attn.o_proj``, ``layers[i].mlp.down_proj``, ``norm``).
        counts: how often tokens stand in the texts that the embedder will learn from.
        damping: factor on the output projections of attention and MLP.

    Raises:
        ModelError: too few different tokens were counted to whiten the table.
    """
    table = token_embedding(model)
    seen = torch.from_numpy(counts.in_documents >= 2).to(table.device)
    if int(seen.sum()) <= table.shape[1]:
        raise ModelError(
            f"a lexical start needs more different tokens than the table is wide ({table.shape[1]}), but only "
            f"{int(seen.sum())} stand in two or more of the stage's texts: use more text or set lexical_start = false"
        )
    rows = (table - table[seen].mean(0)).double()
    covariance = rows[seen].T @ rows[seen] / seen.sum()
    values, vectors = torch.linalg.eigh(covariance)
    rows = rows @ (vectors * values.clamp_min(values[-1] * 1e-6).rsqrt()) @ vectors.T
    rows[:, -1] = 0.0
    rows /= rows.norm(dim=1, keepdim=True).clamp_min(1e-6)
    weights = torch.from_numpy(frequency_weights(counts.in_documents, counts.documents)).to(table.device)
    rows *= weights[:, None]
    share = torch.from_numpy(counts.in_all / counts.in_all.sum()).to(rows)
    rows -= share @ rows
    length = rows.norm(dim=1, keepdim=True)
    rows *= _BOUNDS[1] / length.clamp_min(_BOUNDS[1])
    rows[:, -1] = (1 - (rows**2).sum(1)).sqrt()
    table.copy_(rows)
    norm = model.get_submodule("norm").get_parameter("weight")
    norm[-1] = 0.0
    for name, parameter in model.named_parameters():
        if name.endswith(("self_attn.o_proj.weight", "mlp.down_proj.weight")):
            parameter.mul_(damping)
