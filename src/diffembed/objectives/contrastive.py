"""InfoNCE, once: in-batch documents and queries, mined negatives, both directions, false negatives left out.

A stage chooses by arguments: the pair loss of pplx-embed (the defaults), its triplet loss (mined documents after the
positives, no margin, no query negatives), the two-way loss, or the loss over explicit negatives only of RepLLaMA.
``contextual`` is built from the same parts: ``similarities``, ``Answers`` and ``nce_terms``.

Sources: InfoNCE: van den Oord et al. 2018 (arXiv 1807.03748). Query negatives and the margin: pplx-embed (arXiv
2602.11151), pair stage, temperature 0.02, margin 0.1, s being the cosine of the quantized vectors. Explicit negatives
with dot products over d: RepLLaMA (arXiv 2310.08319) as in DiffEmbed's FollowIR run (arXiv 2505.15045).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize


def info_nce(
    queries_QD: Tensor,
    documents_ND: Tensor,
    *,
    positives_Q: Tensor | None = None,
    document_ids_N: Tensor | None = None,
    query_ids_Q: Tensor | None = None,
    temperature: float = 0.02,
    margin: float | None = 0.1,
    query_negatives: bool = True,
    in_batch: bool = True,
    negatives_QK: Tensor | None = None,
    symmetric: bool = False,
    similarity: Literal["cosine", "dot"] = "cosine",
    rows: Tensor | None = None,
) -> Tensor:
    """Mean over queries of -log p(own document | own document and the negatives), in nats.

    A document *answers* query i if it has the id of i's positive, or of the positive of a query with i's query id. Such
    documents are no negatives of i; nor are queries that share such a document with i. Computed in float32 (float64 for
    float64 vectors), also under autocast.

    Args:
        queries_QD: vectors of the queries; any scale under cosine.
        documents_ND: each query's document, and mined negatives that every query is compared with.
        positives_Q: index of each query's document; default: document i belongs to query i.
        document_ids_N: integers, equal for copies of one document; default: all differ.
        query_ids_Q: integers, equal for rows that ask the same; default: all differ.
        temperature: divides the similarities.
        margin: in cosine units; a negative x with s(q, x) > s(q, d) + margin is left out as a likely false one.
            None keeps all.
        query_negatives: the other queries are negatives too (not without ``in_batch``).
        in_batch: every document of the batch is a negative; if False, only those that ``negatives_QK`` lists.
        negatives_QK: indices of each query's own negatives among the documents, -1 for none. With ``in_batch`` these
            are among the negatives anyway and change nothing.
        symmetric: average with the mirrored loss: each query's document against all queries, same masks.
        similarity: "dot" is the raw inner product; it needs ``margin=None``.
        rows: indices of the queries whose terms are summed, default all. The sum is divided by Q, whatever the rows:
            the shares of several processes add up to the whole.

    Returns:
        A scalar. A query without negatives has loss 0.

    Raises:
        ValueError: shapes, indices or options that do not fit.

    Query 0: own document at 1, document 1 at 0.7071, query 1 at 0. Query 1: own 0.7071, the other two at 0. Then the
    same without query negatives, with one listed negative for query 0 alone, and with that one beyond the margin.

    >>> q = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> d = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> round(float(info_nce(q, d, temperature=1.0)), 4)  # (ln(1 + e^-0.2929 + e^-1) + ln(1 + 2 e^-0.7071)) / 2
    0.7174
    >>> round(float(info_nce(q, d, temperature=1.0, query_negatives=False)), 4)  # less e^-1, and 2 is 1
    0.4791
    >>> own = torch.tensor([[1, -1], [-1, -1]])
    >>> round(float(info_nce(q, d, temperature=1.0, in_batch=False, negatives_QK=own)), 4)  # ln(1 + e^-0.2929) / 2
    0.2787
    >>> float(info_nce(q, d, temperature=1.0, in_batch=False, negatives_QK=own, margin=-0.3))  # 0.7071 > 1 - 0.3
    0.0
    """
    check_vectors(queries=queries_QD, documents=documents_ND)
    check_temperature(temperature)
    if similarity not in ("cosine", "dot"):
        raise ValueError(f"similarity is {similarity!r}, expected 'cosine' or 'dot'")
    if similarity == "dot" and margin is not None:
        raise ValueError(f"margin {margin} is in cosine units and similarity is 'dot': give margin=None")
    if not in_batch and negatives_QK is None:
        raise ValueError("in_batch=False leaves no negatives: give negatives_QK")
    if not in_batch and symmetric:
        raise ValueError("symmetric compares documents with every query of the batch: it needs in_batch=True")
    rows_R = row_indices(rows, queries_QD)
    answers = Answers.of(
        positives_Q,
        document_ids_N,
        query_ids_Q,
        queries=len(queries_QD),
        documents=len(documents_ND),
        device=queries_QD.device,
    )
    anchors_RD = queries_QD[rows_R]
    to_documents_RN = similarities(anchors_RD, documents_ND, similarity)
    positive_R = to_documents_RN.gather(1, answers.positives_Q[rows_R, None])[:, 0]
    negative_RN = ~answers.documents(rows_R)
    if not in_batch and negatives_QK is not None:
        negative_RN &= _listed(negatives_QK, rows_R, len(queries_QD), len(documents_ND))
    groups = [(to_documents_RN, negative_RN)]
    if in_batch and query_negatives:
        groups.append((similarities(anchors_RD, queries_QD, similarity), ~answers.queries(rows_R)))
    terms_R = nce_terms(positive_R, groups, temperature=temperature, margin=margin)
    if symmetric:
        to_queries_RQ = similarities(documents_ND[answers.positives_Q[rows_R]], queries_QD, similarity)
        mirrored = [(to_queries_RQ, ~answers.askers(rows_R))]
        terms_R = (terms_R + nce_terms(positive_R, mirrored, temperature=temperature, margin=margin)) / 2
    return terms_R.sum() / len(queries_QD)


def similarities(left_MD: Tensor, right_ND: Tensor, kind: Literal["cosine", "dot"] = "cosine") -> Tensor:
    """``[M, N]`` cosines or inner products, in float32 (float64 for float64 vectors) also under autocast.

    >>> left, right = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [6.0, 8.0]])
    >>> [round(x, 4) for x in similarities(left, right)[0].tolist()], similarities(left, right, "dot").tolist()
    ([0.6, 1.0], [[3.0, 50.0]])
    """
    dtype = torch.promote_types(torch.promote_types(left_MD.dtype, right_ND.dtype), torch.float32)
    with torch.autocast(left_MD.device.type, enabled=False):
        left, right = left_MD.to(dtype), right_ND.to(dtype)
        if kind == "cosine":
            left, right = normalize(left, dim=-1), normalize(right, dim=-1)
        return left @ right.T


def nce_terms(
    positive_R: Tensor, groups: Sequence[tuple[Tensor, Tensor]], *, temperature: float, margin: float | None
) -> Tensor:
    """``[R]``: -log of the positive's share among itself and its negatives, per row, in nats.

    Args:
        positive_R: similarity of each row to its positive.
        groups: pairs of similarities ``[R, C]`` and a bool mask of the same shape: which candidates are negatives.
        temperature: divides the similarities.
        margin: a negative above ``positive + margin`` is left out; the comparison has no gradient.

    Row 0: one negative as near as the positive, ln 2. Row 1: none.

    >>> scores, negative = torch.tensor([[0.5, 0.9], [0.5, 0.9]]), torch.tensor([[True, True], [False, False]])
    >>> [round(x, 4) for x in nce_terms(torch.tensor([0.5, 0.1]), [(scores, negative)],
    ...                                 temperature=1.0, margin=0.1).tolist()]
    [0.6931, 0.0]
    """
    own_R1 = positive_R[:, None]
    # The positive is the 0 that all are held against: a row without negatives is exactly 0, with a gradient of 0.
    logits = [torch.zeros_like(own_R1)]
    for scores, negative in groups:
        kept = negative if margin is None else negative & (scores.detach() <= own_R1.detach() + margin)
        logits.append((scores - own_R1).div_(temperature).masked_fill_(~kept, -torch.inf))
    return torch.logsumexp(torch.cat(logits, dim=1), dim=1)


@dataclass(frozen=True, eq=False)
class Answers:
    """Which documents (or chunks) answer which queries, and so are not negatives of each other.

    Two rows ask the same (query id 7) and have documents 0 and 1; document 3 is a copy of document 0.

    >>> a = Answers.of(None, torch.tensor([5, 6, 8, 5]), torch.tensor([7, 7, 9]), queries=3, documents=4)
    >>> a.documents(torch.arange(3)).int().tolist()
    [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 1, 0]]
    >>> a.queries(torch.arange(3)).int().tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """

    positives_Q: Tensor
    _document_groups_N: Tensor
    _query_groups_Q: Tensor

    @classmethod
    def of(
        cls,
        positives_Q: Tensor | None,
        document_ids_N: Tensor | None,
        query_ids_Q: Tensor | None,
        *,
        queries: int,
        documents: int,
        device: torch.device | None = None,
    ) -> Answers:
        """From each query's positive (default: the document of the same index) and the ids (default: all differ)."""
        if positives_Q is not None:
            positives_Q = indices("positives", positives_Q, (queries,), below=documents, device=device)
        elif documents < queries:
            raise ValueError(f"{queries} queries have {documents} documents: each needs its own, or give positives_Q")
        else:
            positives_Q = torch.arange(queries, device=device)
        groups_N = _groups("document_ids", document_ids_N, documents, device)
        groups_Q = _groups("query_ids", query_ids_Q, queries, device)
        return cls(positives_Q, groups_N, groups_Q)

    def documents(self, rows_R: Tensor) -> Tensor:
        """``[R, N]``: the document answers the query of that row."""
        return self._answered(rows_R)[:, self._document_groups_N]

    def queries(self, rows_R: Tensor) -> Tensor:
        """``[R, Q]``: the two queries share a document that answers both; every query does with itself."""
        shared_RQ = self._answered(rows_R)[:, self._document_groups_N[self.positives_Q]]
        return self._of_all_rows(shared_RQ)  # a query asked in several rows shares what any of its rows shares

    def askers(self, rows_R: Tensor) -> Tensor:
        """``[R, Q]``: the document of that row answers the query, too."""
        of_query_Q = self._document_groups_N[self.positives_Q]
        return self._of_all_rows(of_query_Q[rows_R, None] == of_query_Q[None, :])

    def _answered(self, rows_R: Tensor) -> Tensor:
        """``[R, G]``: document group g answers the query of that row. Never a table of all queries: it is a square."""
        row, query = torch.nonzero(self._query_groups_Q[rows_R, None] == self._query_groups_Q[None, :], as_tuple=True)
        found = torch.zeros(len(rows_R), len(self._document_groups_N), dtype=torch.bool, device=rows_R.device)
        found[row, self._document_groups_N[self.positives_Q[query]]] = True
        return found

    def _of_all_rows(self, some_RQ: Tensor) -> Tensor:
        """True for all rows that ask a query if it is for one of them."""
        row, query = torch.nonzero(some_RQ, as_tuple=True)
        found = torch.zeros_like(some_RQ)
        found[row, self._query_groups_Q[query]] = True
        return found[:, self._query_groups_Q]


def _groups(name: str, ids: Tensor | None, count: int, device: torch.device | None) -> Tensor:
    """Ids as numbers from 0, equal where the ids are."""
    if ids is None:
        return torch.arange(count, device=device)
    checked = indices(name, ids, (count,), below=None, device=device)
    groups: Tensor = torch.unique(checked, return_inverse=True)[1]
    return groups


def _listed(negatives_QK: Tensor, rows_R: Tensor, queries: int, documents: int) -> Tensor:
    """``[R, N]`` bool from lists of indices; -1 stands for none."""
    if negatives_QK.ndim != 2:
        raise ValueError(f"negatives have shape {tuple(negatives_QK.shape)}, expected [queries, negatives of each]")
    shape, device = (queries, negatives_QK.shape[1]), rows_R.device
    index_RK = indices("negatives", negatives_QK, shape, below=documents, lowest=-1, device=device)[rows_R]
    listed = torch.zeros(len(rows_R), documents + 1, dtype=torch.bool, device=device)
    listed.scatter_(1, torch.where(index_RK < 0, documents, index_RK), True)
    return listed[:, :documents]


def indices(
    name: str,
    given: Tensor,
    shape: tuple[int, ...],
    *,
    below: int | None,
    device: torch.device | None,
    lowest: int = 0,
) -> Tensor:
    """``given`` as int64 on ``device``; ValueError unless it has the shape and lies in ``[lowest, below)``."""
    if given.dtype.is_floating_point or given.dtype == torch.bool:
        raise ValueError(f"{name} are {given.dtype}, expected integers")
    if tuple(given.shape) != shape:
        raise ValueError(f"{name} have shape {tuple(given.shape)}, expected {shape}")
    if below is not None and bool(((given < lowest) | (given >= below)).any()):
        found = f"{int(given.min())} to {int(given.max())}"
        raise ValueError(f"{name} run from {found}, expected {lowest} to {below - 1}")
    return given.to(device=device, dtype=torch.int64)


def row_indices(rows: Tensor | None, queries_QD: Tensor) -> Tensor:
    """The rows whose terms a loss sums, all by default. Rows may be none: a share of nothing is 0."""
    total, device = len(queries_QD), queries_QD.device
    if rows is None:
        return torch.arange(total, device=device)
    return indices("rows", rows, (rows.numel(),), below=total, device=device)


def check_vectors(**named: Tensor) -> None:
    """ValueError unless all are ``[at least one, width]`` of one width."""
    shapes = {name: tuple(vectors.shape) for name, vectors in named.items()}
    if any(len(shape) != 2 or not shape[0] for shape in shapes.values()):
        raise ValueError(f"vectors have shapes {shapes}, expected [at least one, width]")
    if len({shape[1] for shape in shapes.values()}) > 1:
        raise ValueError(f"vectors have shapes {shapes}, expected one width")


def check_temperature(temperature: float) -> None:
    """ValueError unless above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, expected above 0")
