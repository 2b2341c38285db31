"""Losses for vectors of chunks that have read their whole document, with gold chunks and without.

With a gold chunk for every query, the contextual loss of pplx-embed (arXiv 2602.11151), which grew out of InSeNT
(Conti et al. 2025, arXiv 2505.24782): chunk against chunk inside the document and in the batch, and document against
document. Without gold chunks, the recipe of pplx-embed-context v2: a document scores as its best chunk
(``max_chunk_info_nce``), and a teacher that has read query and document says which chunks matter
(``chunk_relevance_kl``).

Chunks of all documents of a batch stand in one tensor ``[C, D]``; ``document_of_chunk_C`` says whose they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffembed.objectives.contrastive import (
    Answers,
    check_temperature,
    check_vectors,
    indices,
    info_nce,
    nce_terms,
    row_indices,
    similarities,
)


def beta_at(progress: float, start: float = 0.2, end: float = 0.5) -> float:
    """The weight of the global term at ``progress`` (0 to 1) of a stage: half a cosine from ``start`` to ``end``.

    >>> [round(beta_at(p), 4) for p in (0.0, 0.25, 0.5, 1.0)]  # 0.2 + 0.3 (1 - cos 45 degrees) / 2 = 0.2439
    [0.2, 0.2439, 0.35, 0.5]
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress is {progress}, expected 0 to 1")
    return start + (end - start) * (1.0 - math.cos(math.pi * progress)) / 2.0


def contextual_loss(
    queries_QD: Tensor,
    chunks_CD: Tensor,
    documents_ND: Tensor,
    *,
    document_of_chunk_C: Tensor,
    gold_Q: Tensor,
    chunk_ids_C: Tensor | None = None,
    document_ids_N: Tensor | None = None,
    query_ids_Q: Tensor | None = None,
    alpha: float = 0.2,
    beta: float = 0.2,
    temperature: float = 0.02,
    margin: float | None = 0.1,
    rows: Tensor | None = None,
) -> Tensor:
    """``beta * global + (1 - beta) * (alpha * in-sequence + (1 - alpha) * in-batch)``, in nats.

    Global is ``info_nce`` between queries and documents, with the margin and query negatives; the other two are
    ``in_sequence`` and ``in_batch_chunks``, without a margin. Source: pplx-embed (arXiv 2602.11151), contextual stage;
    ``beta_at`` gives its schedule.

    Args:
        queries_QD: one row for each gold chunk; a query with several gold chunks has as many rows, of one query id.
        chunks_CD: the chunks of all documents.
        documents_ND: vectors of the whole documents; the positive is the one that the gold chunk belongs to.
        document_of_chunk_C: index of each chunk's document.
        gold_Q: index of the chunk that answers the query.
        chunk_ids_C: integers, equal for chunks of the same text; default: all differ.
        document_ids_N: integers, equal for copies of one document; default: all differ.
        query_ids_Q: integers, equal for rows that ask the same; default: all differ.
        alpha: weight of in-sequence against in-batch.
        beta: weight of global against local.
        temperature: divides the cosines.
        margin: in cosine units, of the global term; None for none.
        rows: indices of the queries whose terms are summed; the sum is divided by Q, as in ``info_nce``.

    Raises:
        ValueError: shapes, indices or weights that do not fit.

    Two documents, of two chunks and one. The query stands on its gold chunk and its document, at right angles to all
    else: in-sequence ln(1 + e^-1) = 0.3133, in-batch ln(1 + 2 e^-1) = 0.5514, global 0.3133 again.

    >>> q, chunks = torch.eye(4)[:1], torch.eye(4)[:3]
    >>> documents = torch.eye(4)[[0, 3]]
    >>> loss = contextual_loss(q, chunks, documents, document_of_chunk_C=torch.tensor([0, 0, 1]),
    ...                        gold_Q=torch.tensor([0]), temperature=1.0)
    >>> round(float(loss), 4)  # 0.2 * 0.3133 + 0.8 * (0.2 * 0.3133 + 0.8 * 0.5514)
    0.4657
    """
    for name, weight in (("alpha", alpha), ("beta", beta)):
        if not 0.0 <= weight <= 1.0:
            raise ValueError(f"{name} is {weight}, expected 0 to 1")
    check_vectors(queries=queries_QD, chunks=chunks_CD, documents=documents_ND)
    document_of_chunk_C = _documents_of(document_of_chunk_C, chunks_CD, len(documents_ND))
    gold_Q = _gold(gold_Q, queries_QD, chunks_CD)
    sequence = in_sequence(
        queries_QD,
        chunks_CD,
        document_of_chunk_C=document_of_chunk_C,
        gold_Q=gold_Q,
        chunk_ids_C=chunk_ids_C,
        query_ids_Q=query_ids_Q,
        temperature=temperature,
        rows=rows,
    )
    batch = in_batch_chunks(
        queries_QD,
        chunks_CD,
        gold_Q=gold_Q,
        chunk_ids_C=chunk_ids_C,
        query_ids_Q=query_ids_Q,
        temperature=temperature,
        rows=rows,
    )
    whole = info_nce(
        queries_QD,
        documents_ND,
        positives_Q=document_of_chunk_C[gold_Q],
        document_ids_N=document_ids_N,
        query_ids_Q=query_ids_Q,
        temperature=temperature,
        margin=margin,
        rows=rows,
    )
    return beta * whole + (1.0 - beta) * (alpha * sequence + (1.0 - alpha) * batch)


def in_sequence(
    queries_QD: Tensor,
    chunks_CD: Tensor,
    *,
    document_of_chunk_C: Tensor,
    gold_Q: Tensor,
    chunk_ids_C: Tensor | None = None,
    query_ids_Q: Tensor | None = None,
    temperature: float = 0.02,
    rows: Tensor | None = None,
) -> Tensor:
    """InfoNCE of the gold chunk against the other chunks of its document; 0 for a document of one chunk.

    No negatives: chunks with the id of the gold chunk, and gold chunks of rows with the same query id. Arguments as in
    ``contextual_loss``.

    >>> q, chunks = torch.eye(3)[:1], torch.eye(3)
    >>> round(float(in_sequence(q, chunks, document_of_chunk_C=torch.tensor([0, 0, 1]), gold_Q=torch.tensor([0]),
    ...                         temperature=1.0)), 4)  # ln(1 + e^-1)
    0.3133
    """
    check_vectors(queries=queries_QD, chunks=chunks_CD)
    check_temperature(temperature)
    documents_C = _documents_of(document_of_chunk_C, chunks_CD, None)
    rows_R = row_indices(rows, queries_QD)
    answers = Answers.of(
        _gold(gold_Q, queries_QD, chunks_CD),
        chunk_ids_C,
        query_ids_Q,
        queries=len(queries_QD),
        documents=len(chunks_CD),
        device=chunks_CD.device,
    )
    gold_R1 = answers.positives_Q[rows_R, None]
    scores_RC = similarities(queries_QD[rows_R], chunks_CD)
    negative_RC = (documents_C[gold_R1] == documents_C[None, :]) & ~answers.documents(rows_R)
    positive_R = scores_RC.gather(1, gold_R1)[:, 0]
    terms_R = nce_terms(positive_R, [(scores_RC, negative_RC)], temperature=temperature, margin=None)
    return terms_R.sum() / len(queries_QD)


def in_batch_chunks(
    queries_QD: Tensor,
    chunks_CD: Tensor,
    *,
    gold_Q: Tensor,
    chunk_ids_C: Tensor | None = None,
    query_ids_Q: Tensor | None = None,
    temperature: float = 0.02,
    rows: Tensor | None = None,
) -> Tensor:
    """InfoNCE of the gold chunk against every chunk of the batch, those of its own document included.

    No negatives: as in ``in_sequence``. Arguments as in ``contextual_loss``.

    >>> q, chunks = torch.eye(3)[:1], torch.eye(3)
    >>> round(float(in_batch_chunks(q, chunks, gold_Q=torch.tensor([0]), temperature=1.0)), 4)  # ln(1 + 2 e^-1)
    0.5514
    """
    check_vectors(queries=queries_QD, chunks=chunks_CD)
    return info_nce(
        queries_QD,
        chunks_CD,
        positives_Q=_gold(gold_Q, queries_QD, chunks_CD),
        document_ids_N=chunk_ids_C,
        query_ids_Q=query_ids_Q,
        temperature=temperature,
        margin=None,
        query_negatives=False,
        rows=rows,
    )


def max_chunk_info_nce(
    queries_QD: Tensor,
    chunks_CD: Tensor,
    *,
    document_of_chunk_C: Tensor,
    positives_Q: Tensor,
    document_ids_N: Tensor | None = None,
    query_ids_Q: Tensor | None = None,
    temperature: float = 0.02,
    margin: float | None = 0.1,
    rows: Tensor | None = None,
) -> Tensor:
    """InfoNCE between queries and documents, a document scoring as the best of its chunks' cosines. No gold chunks.

    The gradient reaches the best chunk only (equal bests share it). Masks, margin and rows as in ``info_nce``.

    Args:
        document_of_chunk_C: index of each chunk's document.
        positives_Q: index of each query's document, which must have a chunk.
        document_ids_N: integers, equal for copies of one document; default: as many documents as the chunks name,
            all different.

    The own document scores max(0, 1) = 1, the other 0.

    >>> chunks = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> loss = max_chunk_info_nce(torch.tensor([[1.0, 0.0]]), chunks, document_of_chunk_C=torch.tensor([0, 0, 1]),
    ...                           positives_Q=torch.tensor([0]), temperature=1.0)
    >>> round(float(loss), 4)  # ln(1 + e^-1)
    0.3133
    """
    check_vectors(queries=queries_QD, chunks=chunks_CD)
    check_temperature(temperature)
    named = len(document_ids_N) if document_ids_N is not None else None
    documents_C = _documents_of(document_of_chunk_C, chunks_CD, named)
    total = int(documents_C.max()) + 1 if named is None else named
    answers = Answers.of(
        positives_Q,
        document_ids_N,
        query_ids_Q,
        queries=len(queries_QD),
        documents=total,
        device=chunks_CD.device,
    )
    has_chunk_N = torch.zeros(total, dtype=torch.bool, device=chunks_CD.device)
    has_chunk_N[documents_C] = True
    if not bool(has_chunk_N[answers.positives_Q].all()):
        raise ValueError("a positive document has no chunk in document_of_chunk_C")
    rows_R = row_indices(rows, queries_QD)
    scores_RC = similarities(queries_QD[rows_R], chunks_CD)
    worst_RN = scores_RC.new_full((len(rows_R), total), -torch.inf)
    scores_RN = worst_RN.scatter_reduce(1, documents_C.expand_as(scores_RC), scores_RC, "amax")
    positive_R = scores_RN.gather(1, answers.positives_Q[rows_R, None])[:, 0]
    groups = [(scores_RN, has_chunk_N & ~answers.documents(rows_R))]
    return nce_terms(positive_R, groups, temperature=temperature, margin=margin).sum() / len(queries_QD)


def chunk_relevance_kl(
    queries_QD: Tensor,
    chunks_CD: Tensor,
    *,
    relevance_QC: Tensor,
    temperature: float = 0.02,
    rows: Tensor | None = None,
) -> Tensor:
    """Forward KL(teacher || student) over all chunks of the batch, sum over rows divided by Q, in nats.

    The student is the softmax of cosine / temperature over every chunk of the batch. Source: the vendor's description
    of pplx-embed-context v2.

    Args:
        relevance_QC: the teacher's distribution, see ``relevance_distribution``; a row of zeros has no teacher and
            contributes 0. No gradient.

    The teacher gives 1/2 and 1/2; the student's cosines are ln 3 apart in units of temperature, so 3/4 and 1/4:
    (ln(2/3) + ln 2) / 2 = ln(4/3) / 2.

    >>> q, chunks = torch.tensor([[1.0, 0.0]]), torch.eye(2)
    >>> round(float(chunk_relevance_kl(q, chunks, relevance_QC=torch.tensor([[0.5, 0.5]]),
    ...                                temperature=1 / math.log(3))), 4)
    0.1438
    """
    check_vectors(queries=queries_QD, chunks=chunks_CD)
    check_temperature(temperature)
    shape = (len(queries_QD), len(chunks_CD))
    if tuple(relevance_QC.shape) != shape:
        raise ValueError(f"relevance has shape {tuple(relevance_QC.shape)}, expected {shape}")
    rows_R = row_indices(rows, queries_QD)
    log_student_RC = torch.log_softmax(similarities(queries_QD[rows_R], chunks_CD) / temperature, dim=1)
    teacher_RC = relevance_QC.detach().to(log_student_RC)[rows_R]
    sums_R = teacher_RC.sum(dim=1)
    proper_R = ((sums_R - 1.0).abs() < 1e-2) | (sums_R == 0.0)
    if not bool(proper_R.all()) or bool((teacher_RC < 0.0).any()):
        raise ValueError("each row of relevance must be a distribution (sum 1, none below 0) or all zeros")
    return (torch.xlogy(teacher_RC, teacher_RC) - teacher_RC * log_student_RC).sum() / len(queries_QD)


def relevance_distribution(scores_QC: Tensor, mask_QC: Tensor, temperature: float) -> Tensor:
    """A teacher's scores of chunks as a distribution: softmax over the chunks that the mask names, 0 elsewhere.

    Args:
        scores_QC: any scale; read only where the mask is True.
        mask_QC: bool, True for the chunks of the query's positive document; a row without any stays all zeros.
        temperature: divides the scores.

    Returns:
        ``[Q, C]`` float32 (float64 for float64 scores), without gradient.

    >>> mask = torch.tensor([[True, True, False], [False, False, False]])
    >>> d = relevance_distribution(torch.tensor([[math.log(3), 0.0, 9.0], [1.0, 1.0, 1.0]]), mask, 1.0)
    >>> [[round(x, 4) for x in row] for row in d.tolist()]
    [[0.75, 0.25, 0.0], [0.0, 0.0, 0.0]]
    """
    check_temperature(temperature)
    if mask_QC.shape != scores_QC.shape or mask_QC.dtype != torch.bool:
        found = f"{mask_QC.dtype} {tuple(mask_QC.shape)}"
        raise ValueError(f"mask is {found}, expected torch.bool {tuple(scores_QC.shape)}")
    scores = scores_QC.detach().to(torch.promote_types(scores_QC.dtype, torch.float32)) / temperature
    return torch.softmax(scores.masked_fill(~mask_QC, -torch.inf), dim=1).masked_fill(~mask_QC, 0.0)


def _documents_of(document_of_chunk_C: Tensor, chunks_CD: Tensor, total: int | None) -> Tensor:
    below = total if total is not None else torch.iinfo(torch.int64).max
    shape = (len(chunks_CD),)
    return indices("documents of chunks", document_of_chunk_C, shape, below=below, device=chunks_CD.device)


def _gold(gold_Q: Tensor, queries_QD: Tensor, chunks_CD: Tensor) -> Tensor:
    return indices("gold chunks", gold_Q, (len(queries_QD),), below=len(chunks_CD), device=queries_QD.device)
