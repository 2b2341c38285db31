"""Learning from another embedder's vectors: from its similarities, whatever their width, or from the vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from diffembed.objectives.contrastive import check_temperature, check_vectors, row_indices, similarities


def similarity_kl(
    student_queries_QD: Tensor,
    student_documents_ND: Tensor,
    teacher_queries_QE: Tensor,
    teacher_documents_NE: Tensor,
    *,
    temperature: float = 0.02,
    teacher_temperature: float = 0.02,
    rows: Tensor | None = None,
) -> Tensor:
    """Forward KL(teacher || student) of each query's softmax over the documents of the batch, in nats.

    Cosines are compared only with cosines of the same model, so the teacher may have any width. Source: Hinton et al.
    2015 (arXiv 1503.02531), here with in-batch similarities for logits.

    Args:
        student_queries_QD: gradients flow here and to the student's documents only.
        teacher_queries_QE: the teacher's vectors of the same texts.
        temperature: divides the student's cosines.
        teacher_temperature: divides the teacher's.
        rows: indices of the queries whose terms are summed; the sum is divided by Q, as in ``info_nce``.

    Raises:
        ValueError: shapes or temperatures that do not fit.

    The teacher finds both documents equal; the student's two cosines are ln 3 apart in units of temperature, so 3/4
    and 1/4: (ln(2/3) + ln 2) / 2 = ln(4/3) / 2.

    >>> import math
    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    >>> loss = similarity_kl(student, torch.eye(2), teacher, torch.eye(3)[:2], temperature=1 / math.log(3))
    >>> round(float(loss), 4)
    0.1438
    """
    check_vectors(student_queries=student_queries_QD, student_documents=student_documents_ND)
    check_vectors(teacher_queries=teacher_queries_QE, teacher_documents=teacher_documents_NE)
    check_temperature(temperature)
    check_temperature(teacher_temperature)
    student_shape = (len(student_queries_QD), len(student_documents_ND))
    teacher_shape = (len(teacher_queries_QE), len(teacher_documents_NE))
    if student_shape != teacher_shape:
        raise ValueError(
            f"queries and documents: {student_shape} of the student, {teacher_shape} of the teacher; expected the same"
        )
    rows_R = row_indices(rows, student_queries_QD)
    scores_RN = similarities(student_queries_QD[rows_R], student_documents_ND) / temperature
    log_student_RN = torch.log_softmax(scores_RN, dim=1)
    with torch.no_grad():
        teacher_RN = similarities(teacher_queries_QE[rows_R], teacher_documents_NE) / teacher_temperature
        log_teacher_RN = torch.log_softmax(teacher_RN, dim=1)
    return (log_teacher_RN.exp() * (log_teacher_RN - log_student_RN)).sum() / len(student_queries_QD)


def vector_cosine(student_MD: Tensor, teacher_ME: Tensor, *, rows: Tensor | None = None) -> Tensor:
    """Mean of 1 - cos(student vector, teacher vector): the student takes over the teacher's space.

    Args:
        student_MD: gradients flow here only.
        teacher_ME: the teacher's vectors of the same texts. If wider, its first D values are the target, which is a
            space of its own only if the teacher was Matryoshka-trained (arXiv 2205.13147) at that width.
        rows: indices of the texts whose terms are summed; the sum is divided by M.

    Raises:
        ValueError: a teacher narrower than the student, or shapes that do not fit.

    Cosines 1 (against the first two of three values) and 0.

    >>> student, teacher = torch.eye(2), torch.tensor([[5.0, 0.0, 7.0], [2.0, 0.0, 0.0]])
    >>> float(vector_cosine(student, teacher))
    0.5
    """
    check_vectors(student=student_MD)
    check_vectors(teacher=teacher_ME)
    if len(student_MD) != len(teacher_ME):
        raise ValueError(f"{len(student_MD)} vectors of the student, {len(teacher_ME)} of the teacher")
    width, given = student_MD.shape[1], teacher_ME.shape[1]
    if given < width:
        raise ValueError(
            f"the teacher's vectors have {given} values, the student's {width}: "
            f"cut the student to {given}, or use similarity_kl, which takes any width"
        )
    rows_R = row_indices(rows, student_MD)
    dtype = torch.promote_types(student_MD.dtype, torch.float32)
    student, teacher = student_MD[rows_R].to(dtype), teacher_ME[rows_R, :width].detach().to(dtype)
    return (1.0 - cosine_similarity(student, teacher, dim=-1)).sum() / len(student_MD)
