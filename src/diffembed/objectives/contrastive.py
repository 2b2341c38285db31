"""The pair loss of pplx-embed: InfoNCE over in-batch documents and queries, with false negatives left out.

Source: pplx-embed (arXiv 2602.11151), pair stage: temperature 0.02, a negative x of query i is dropped when
s(q_i, x) > s(q_i, d_i) + 0.1, s being the cosine of the quantized vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize


def pair_info_nce(
    queries_BD: Tensor,
    documents_BD: Tensor,
    document_ids_B: Tensor,
    *,
    temperature: float = 0.02,
    margin: float = 0.1,
) -> Tensor:
    """Mean over queries of -log p(own document | all documents and all other queries of the batch).

    Args:
        queries_BD: vectors of the queries (any scale: cosine is taken here).
        documents_BD: vector i is the document of query i.
        document_ids_B: integers; another row with the same document is not a negative, nor is its query.
        temperature: divides the cosines.
        margin: in cosine units; a negative nearer than the positive by more than this is left out.

    >>> q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> d = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> loss = pair_info_nce(q, d, torch.tensor([0, 1]), temperature=1.0)
    >>> # query 0: own 1; document 1 at 0.7071, query 1 at 0. query 1: own 0.7071; document 0 at 0, query 0 at 0
    >>> import math; e = math.exp; c = math.sqrt(0.5)
    >>> expected = (math.log(1 + e(c - 1) + e(-1)) + math.log(1 + 2 * e(-c))) / 2
    >>> round(float(loss), 5) == round(expected, 5)
    True
    """
    queries = normalize(queries_BD.float(), dim=-1)
    documents = normalize(documents_BD.float(), dim=-1)
    to_documents = queries @ documents.T
    to_queries = queries @ queries.T
    positive_B1 = to_documents.diagonal()[:, None]
    same_BB = document_ids_B[:, None] == document_ids_B[None, :]
    with torch.no_grad():
        barrier = positive_B1 + margin
        drop_documents = (to_documents > barrier) | same_BB
        drop_queries = (to_queries > barrier) | same_BB
        drop_documents.fill_diagonal_(False)
    logits = torch.cat(
        [
            (to_documents / temperature).masked_fill(drop_documents, -torch.inf),
            (to_queries / temperature).masked_fill(drop_queries, -torch.inf),
        ],
        dim=1,
    )
    return (torch.logsumexp(logits, dim=1) - positive_B1[:, 0] / temperature).mean()


def matryoshka(
    loss: Callable[[Tensor, Tensor], Tensor],
    quantize: Callable[[Tensor], Tensor],
    queries_BD: Tensor,
    documents_BD: Tensor,
    widths: Sequence[int],
) -> Tensor:
    """Mean of ``loss`` over widths, each seen through the quantizer; the cut comes before the rounding.

    Source: Kusupati et al. 2022 (arXiv 2205.13147), equal weights.
    """
    parts = [loss(quantize(queries_BD[:, :w]), quantize(documents_BD[:, :w])) for w in widths]
    return torch.stack(parts).mean()
