"""Documents in the plane, coloured by what they are about: t-SNE or UMAP of a model's vectors (DiffEmbed's figure 5).

The settings are the paper's (arXiv 2505.15045): vectors of length 1, perplexity 30, start from the principal
components, seed 42, eight concepts. A map shows neighbourhoods only: distances between groups, their sizes and their
gaps mean nothing. So a figure that means something stands under each map, the R-precision: of the R nearest neighbours
of a document by cosine, where R other documents have its label, how many have it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diffembed.data.beir import RetrievalTask, load_beir
from diffembed.data.jsonl import jsonl_file, read_objects
from diffembed.errors import InputError, MissingExtraError
from diffembed.evaluation.ranker import Ranker, load_ranker
from diffembed.models.files import atomic_file
from diffembed.report.charts import PointMap, Series, slug

Method = Literal["tsne", "umap"]
Progress = Callable[[int, int], None] | None
FloatArray = npt.NDArray[np.float32]

QRELS = "qrels"  # in place of a field's name
MOST_LABELS = 40
_FORMAT, _VERSION = "diffembed-map", 1


@dataclass(frozen=True, slots=True)
class DocumentMap:
    """Where the documents of a folder lie, by one model.

    Attributes:
        data, label: the folder's name, and the field (or ``qrels``) that the labels are from.
        model, revision: whose vectors they are.
        method, perplexity, seed: of the projection; ``perplexity`` is the number of neighbours where it is UMAP's.
        precision: R-precision of the vectors among the documents drawn; ``chance``: if labels were dealt at random.
        ids, labels, points: ``[documents]``; a point is ``(x, y)``.
        notes: what was left out.
    """

    data: str
    label: str
    model: str
    revision: str
    method: Method
    perplexity: float
    seed: int
    precision: float
    chance: float
    ids: tuple[str, ...]
    labels: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of its files."""
        return slug("map", self.data, self.label, self.model, self.method)

    def to_chart(self) -> PointMap:
        """As a figure: a colour and a mark for each label, the largest first."""
        counts = {label: self.labels.count(label) for label in dict.fromkeys(self.labels)}
        order = sorted(counts, key=lambda label: (-counts[label], label))
        series = []
        for style, label in enumerate(order):
            own = [point for point, mine in zip(self.points, self.labels, strict=True) if mine == label]
            series.append(Series(label, tuple(x for x, _ in own), tuple(y for _, y in own), style=style))
        method = "t-SNE" if self.method == "tsne" else "UMAP"
        by = "what is judged together" if self.label == QRELS else self.label
        title = f"{self.data}: documents by {by}, {self.model} ({method})"
        share = f"R-precision of the vectors: {self.precision:.3f} (by chance {self.chance:.3f})."
        alt = f"{len(self.ids)} documents of {self.data} in the plane, by {len(order)} labels. {share}"
        setting = f"Perplexity {self.perplexity:g}" if self.method == "tsne" else f"{self.perplexity:g} neighbours"
        told = f"{setting}, seed {self.seed}; distances between groups mean nothing."
        return PointMap(self.name, title, alt, " ".join([share, told, *self.notes]), tuple(series))

    def write(self, folder: Path) -> Path:
        """Keep it as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.name}.json"
        with atomic_file(file) as partial:
            values = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
            partial.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")
        return file


def read_map(file: Path) -> DocumentMap:
    """A map that was kept. Raises ``InputError`` naming the file for anything else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} cannot be read as a map: {error}") from error
    if not isinstance(values, dict) or values.get("format") != _FORMAT or values.get("version") != _VERSION:
        raise InputError(f"{file} is not a map of this version of diffembed report; make it again")
    try:
        found = {f.name: values[f.name] for f in fields(DocumentMap)}
        lists: dict[str, Any] = {name: tuple(found[name]) for name in ("ids", "labels", "notes")}
        return DocumentMap(**found | lists | {"points": tuple((float(x), float(y)) for x, y in found["points"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file} is not a whole map ({type(error).__name__}: {error}); make it again") from error


def map_documents(
    data: Path,
    *,
    label: str = QRELS,
    model: str = "default",
    method: Method = "tsne",
    only: Sequence[str] = (),
    most: int = 8,
    per_label: int = 200,
    perplexity: float = 30.0,
    seed: int = 42,
    progress: Progress = None,
) -> DocumentMap:
    """Encode labelled documents and lay them out in the plane.

    Args:
        data: a folder in BEIR layout.
        label: a field of the rows of its corpus (``lang``, ``concept``), or ``qrels``: documents that are judged for
            the same query, directly or through others, share a label.
        model: ``default``, a model directory, a hub id or ``st:NAME_OR_PATH``; vectors are float32, and chunks of
            documents are read as the model was trained.
        method: ``tsne``, or ``umap`` where umap-learn is installed.
        only: the labels to draw; the ``most`` frequent ones unless given.
        per_label: so many documents of a label at the most, drawn by ``seed``.
        perplexity: of t-SNE; of UMAP the number of neighbours.
        progress: called with (documents encoded, documents).

    Raises:
        InputError: no such field or label, too few documents, bm25.
        MissingExtraError: scikit-learn or umap-learn is missing.
    """
    project = _projection(method)
    task = load_beir(data)
    found = _by_judgement(task) if label == QRELS else _by_field(data, label)
    rows, labels, notes = _chosen(task, found, only, most, per_label, seed)
    if len(rows) <= perplexity:
        raise InputError(
            f"{len(rows)} documents with these labels are too few for a perplexity of {perplexity:g}; "
            "give more labels, or a lower --perplexity"
        )
    ranker = load_ranker(model) if model == "bm25" or model.startswith("st:") else load_ranker(model, dtype="float32")
    vectors = _unit_vectors(task, rows, ranker, progress)
    precision, chance = r_precision(vectors, labels)
    places = project(vectors, perplexity, seed)
    return DocumentMap(
        data=task.name,
        label=label,
        model=model,
        revision=ranker.revision,
        method=method,
        perplexity=perplexity,
        seed=seed,
        precision=precision,
        chance=chance,
        ids=tuple(task.document_ids[row] for row in rows),
        labels=tuple(labels),
        points=tuple((round(float(x), 3), round(float(y), 3)) for x, y in places),
        notes=tuple(notes),
    )


def _by_field(data: Path, name: str) -> dict[str, str]:
    """Document id -> its value of a field; documents without one are left out."""
    found: dict[str, str] = {}
    known: dict[str, None] = {}
    for where, row in read_objects(jsonl_file(data, "corpus")):
        known |= dict.fromkeys(row)
        value = row.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str | int):
            raise InputError(f"{where}: {name!r} is {type(value).__name__}; a label is one word or number")
        found[str(row["_id"])] = str(value)
    if not found:
        raise InputError(f"no document of {data} has a value in {name!r}; give one of: {', '.join(known)}, or {QRELS}")
    return found


def _by_judgement(task: RetrievalTask) -> dict[str, str]:
    """Document id -> the group of documents that queries tie together, named by the one judged best most often.

    >>> task = RetrievalTask("t", ("c", "p", "x", "y"), ("Hash maps\\nA table", "?", "Trees", "!"), {"q": "", "r": ""},
    ...     {"q": {"c": 2, "p": 1}, "r": {"x": 1, "y": 1}})
    >>> _by_judgement(task)
    {'c': 'Hash maps', 'p': 'Hash maps', 'x': 'Trees', 'y': 'Trees'}
    """
    parent: dict[str, str] = {}

    def root(one: str) -> str:
        parent.setdefault(one, one)
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    votes: dict[str, int] = {}
    for judged in task.qrels.values():
        first, *others = judged
        for other in others:
            parent[root(other)] = root(first)
        root(first)
        best = max(judged.values())
        for document, gain in judged.items():
            votes[document] = votes.get(document, 0) + (gain == best)
    members: dict[str, list[str]] = {}
    for document in task.document_ids:
        if document in parent:
            members.setdefault(root(document), []).append(document)
    text = dict(zip(task.document_ids, task.texts, strict=True))
    named: dict[str, str] = {}
    for group in members.values():
        leader = max(group, key=lambda document: votes[document])
        name = text[leader].strip().partition("\n")[0][:60] or leader
        named |= dict.fromkeys(group, name)
    return {document: named[document] for document in task.document_ids if document in named}


def _chosen(
    task: RetrievalTask, found: dict[str, str], only: Sequence[str], most: int, per_label: int, seed: int
) -> tuple[list[int], list[str], list[str]]:
    """Rows of the corpus and their labels, and what was left out."""
    by_label: dict[str, list[int]] = {}
    for row, document in enumerate(task.document_ids):
        if document in found and task.texts[row].strip():
            by_label.setdefault(found[document], []).append(row)
    if unknown := [name for name in only if name not in by_label]:
        near = ", ".join(sorted(by_label)[:12])
        raise InputError(f"no document has the label {unknown[0]!r}; there are {len(by_label)}, such as {near}")
    ranked = sorted(by_label, key=lambda name: (-len(by_label[name]), name))
    names = list(dict.fromkeys(only)) or ranked[:most]
    if not 1 < len(names) <= MOST_LABELS:
        raise InputError(f"{len(names)} labels cannot be told apart by colour; give 2 to {MOST_LABELS} of them")
    notes = []
    if len(names) < len(by_label):
        notes.append(f"{len(names)} of {len(by_label)} labels are drawn.")
    rows: list[int] = []
    for name in names:
        own = by_label[name]
        rows += sorted(random.Random(seed).sample(own, per_label)) if len(own) > per_label else own
    if any(len(by_label[name]) > per_label for name in names):
        notes.append(f"Of a label at most {per_label} documents are drawn.")
    return rows, [found[task.document_ids[row]] for row in rows], notes


def _unit_vectors(task: RetrievalTask, rows: Sequence[int], ranker: Ranker, progress: Progress) -> FloatArray:
    """``[rows, dims]`` vectors of length 1."""
    encoder = ranker.encoder
    if encoder is None:
        raise InputError("bm25 has no vectors to draw; give another --model")
    if ranker.settings["contextual"] and task.doc_ids is not None:
        wanted = set(rows)
        groups = [group for group in task.documents() if wanted & set(group)]
        filled = [[row for row in group if task.texts[row].strip()] for group in groups]
        texts = [[task.texts[row] for row in group] for group in filled]
        found = encoder.encode_chunks(texts, dtype="float32", truncate=True, progress=progress)
        order = {row: place for place, row in enumerate(row for group in filled for row in group)}
        values = found.values[[order[row] for row in rows]]
    else:
        texts_alone = [task.texts[row] for row in rows]
        values = encoder.encode_documents(texts_alone, dtype="float32", truncate=True, progress=progress).values
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(lengths > 0, lengths, 1), np.float32)


def r_precision(vectors: FloatArray, labels: Sequence[str]) -> tuple[float, float]:
    """The mean R-precision of vectors of length 1 over the documents whose label is not theirs alone, and by chance.

    >>> vectors = np.array([[1, 0], [0.96, 0.28], [0, 1], [0.28, 0.96]], np.float32)
    >>> r_precision(vectors, ["a", "a", "b", "b"]), r_precision(vectors, ["a", "b", "a", "b"])[0]
    ((1.0, 0.3333333333333333), 0.0)
    """
    names = np.array(labels)
    same = names[:, None] == names[None, :]
    np.fill_diagonal(same, False)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -np.inf)
    order = np.argsort(-cosines, axis=1, kind="stable")
    sizes = same.sum(axis=1)
    shares = [same[row, order[row, :size]].mean() for row, size in enumerate(sizes) if size]
    chances = [size / (len(names) - 1) for size in sizes if size]
    return (float(np.mean(shares)), float(np.mean(chances))) if shares else (0.0, 0.0)


def _projection(method: Method) -> Callable[[FloatArray, float, int], FloatArray]:
    """The function that lays vectors out; looked for first, since encoding takes time."""
    if method == "tsne":
        try:
            from sklearn.manifold import TSNE
        except ImportError as error:
            message = "t-SNE needs scikit-learn, which is not installed; run: pip install 'diffembed[report]'"
            raise MissingExtraError(message) from error
        return lambda vectors, perplexity, seed: np.asarray(
            TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(vectors), np.float32
        )
    if method != "umap":
        raise InputError(f"unknown method {method!r}; give tsne or umap")
    try:
        import umap
    except ImportError as error:
        raise MissingExtraError("UMAP needs umap-learn, which is not installed; run: pip install umap-learn") from error
    # One job: with a seed UMAP uses no more, and would warn.
    return lambda vectors, neighbours, seed: np.asarray(
        umap.UMAP(n_neighbors=round(neighbours), metric="cosine", random_state=seed, n_jobs=1).fit_transform(vectors),
        np.float32,
    )
