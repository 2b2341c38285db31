"""Maps of documents: labels, what is left out, R-precision, and the layout by scikit-learn."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.errors import InputError, MissingExtraError
from diffembed.report.points import DocumentMap, map_documents, r_precision, read_map

CONCEPTS = ("graphs", "hashing", "sorting")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three concepts: a definition and eleven problems each, tied by judgements as in ReasonAug."""
    data = tmp_path / "concepts"
    data.mkdir()
    corpus, queries, qrels = [], [], []
    for number, concept in enumerate(CONCEPTS):
        corpus.append({"_id": f"c{number}", "title": concept.title(), "text": f"What {concept} is.", "field": concept})
        for problem in range(11 - number):
            key = f"p{number}.{problem}"
            corpus.append({"_id": key, "text": f"Problem {problem} on {concept * (problem + 1)}", "field": concept})
            queries.append({"_id": key, "text": f"problem {problem} {concept}"})
            qrels += [(key, f"c{number}", 2), (key, f"p{number}.{(problem + 1) % (11 - number)}", 1)]
    corpus.append({"_id": "alone", "text": "Nobody asks for this one."})
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (data / "qrels.tsv").write_text("".join(f"{q}\t{d}\t{s}\n" for q, d, s in qrels), encoding="utf-8")
    return data


@pytest.fixture
def layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A projection that takes no time: the first two numbers of each vector."""
    module = types.ModuleType("sklearn.manifold")

    class TSNE:
        def __init__(self, **settings: Any) -> None:
            assert settings == {"perplexity": 5.0, "init": "pca", "random_state": 42}

        def fit_transform(self, vectors: Any) -> Any:
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
            return vectors[:, :2]

    module.TSNE = TSNE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn.manifold", module)


@pytest.mark.usefixtures("layout")
def test_labels_are_a_field_or_what_is_judged_together(folder: Path, tiny_model_dir: Path) -> None:
    by_field = map_documents(folder, label="field", model=str(tiny_model_dir), perplexity=5.0)
    by_qrels = map_documents(folder, model=str(tiny_model_dir), perplexity=5.0)
    assert by_field.labels == ("graphs",) * 12 + ("hashing",) * 11 + ("sorting",) * 10
    assert [label.lower() for label in by_qrels.labels] == list(by_field.labels)
    assert by_qrels.ids == by_field.ids
    assert "alone" not in by_field.ids
    assert by_field.revision
    assert 0 < by_field.precision <= 1
    assert by_field.chance == pytest.approx((12 * 11 + 11 * 10 + 10 * 9) / 33 / 32)


@pytest.mark.usefixtures("layout")
def test_what_is_left_out_is_said(folder: Path, tiny_model_dir: Path) -> None:
    found = map_documents(
        folder, label="field", model=str(tiny_model_dir), only=["sorting", "graphs"], per_label=6, perplexity=5.0
    )
    assert found.labels == ("sorting",) * 6 + ("graphs",) * 6
    assert found.notes == ("2 of 3 labels are drawn.", "Of a label at most 6 documents are drawn.")
    chart = found.to_chart()
    assert [(series.label, len(series.x)) for series in chart.series] == [("graphs", 6), ("sorting", 6)]
    assert all(note in chart.caption for note in found.notes)
    assert map_documents(folder, model=str(tiny_model_dir), most=2, perplexity=5.0).labels.count("Sorting") == 0


@pytest.mark.usefixtures("layout")
def test_a_map_is_kept_whole(folder: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    found = map_documents(folder, model=str(tiny_model_dir), perplexity=5.0)
    file = found.write(tmp_path / "maps")
    assert read_map(file) == found
    for text in ("{", "[]", '{"format": "diffembed-map", "version": 2}', '{"format": "diffembed-map", "version": 1}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=file.name):
            read_map(file)


def test_the_real_layout_is_the_same_each_time(folder: Path, tiny_model_dir: Path) -> None:
    pytest.importorskip("sklearn")
    first, second = (map_documents(folder, model=str(tiny_model_dir), perplexity=5.0) for _ in range(2))
    assert first == second
    points = np.array(first.points)
    assert points.shape == (33, 2)
    assert np.isfinite(points).all()
    assert points.std(axis=0).min() > 0


def test_chunks_of_documents_are_read_as_the_model_was_trained(folder: Path, tiny_model_dir: Path) -> None:
    """The tiny model is contextual: the same chunk has another vector in other company."""
    pytest.importorskip("sklearn")
    plain = map_documents(folder, label="field", model=str(tiny_model_dir), perplexity=5.0)
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row |= {"doc_id": f"d{number // 3}", "chunk_idx": number % 3}
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    together = map_documents(folder, label="field", model=str(tiny_model_dir), perplexity=5.0)
    assert together.ids == plain.ids
    assert together.points != plain.points


def test_r_precision_is_that_of_a_neighbour_search() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    draws = np.random.default_rng(0)
    labels = [f"l{n}" for n in draws.integers(0, 4, 60)]
    vectors = draws.normal(size=(60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    _, order = neighbors.NearestNeighbors(n_neighbors=60, metric="cosine").fit(vectors).kneighbors(vectors)
    shares = []
    for row, ranked in enumerate(order):
        size = labels.count(labels[row]) - 1
        nearest = [other for other in ranked if other != row][:size]
        shares.append(np.mean([labels[other] == labels[row] for other in nearest]))
    assert r_precision(vectors, labels)[0] == pytest.approx(np.mean(shares))
    assert r_precision(vectors[:2], ["a", "b"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "topic"}, "no document of .* has a value in 'topic'; give one of: _id, title, text, field"),
        ({"only": ["Graphs", "Trees"]}, "no document has the label 'Trees'; there are 3, such as Graphs, Hashing"),
        ({"only": ["Graphs"]}, "1 labels cannot be told apart"),
        ({"perplexity": 40.0}, "33 documents with these labels are too few for a perplexity of 40"),
        ({"model": "bm25"}, "bm25 has no vectors"),
        ({"method": "pca"}, "unknown method 'pca'"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], said: str, folder: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(InputError, match=said):
        map_documents(folder, **({"perplexity": 5.0} | options))


def test_a_field_of_lists_is_no_label(folder: Path) -> None:
    pytest.importorskip("sklearn")
    (folder / "corpus.jsonl").write_text('{"_id": "c0", "text": "x", "tags": ["a"]}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n', encoding="utf-8")
    (folder / "qrels.tsv").write_text("q\tc0\t1\n", encoding="utf-8")
    with pytest.raises(InputError, match="corpus.jsonl, line 1: 'tags' is list"):
        map_documents(folder, label="tags")


@pytest.mark.parametrize(
    ("method", "module", "said"),
    [("tsne", "sklearn.manifold", r"pip install 'diffembed\[report\]'"), ("umap", "umap", "pip install umap-learn")],
)
def test_a_missing_package_is_named_before_anything_is_read(
    method: Any, module: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=said):
        map_documents(tmp_path / "nowhere", method=method)


def test_umap_is_asked_with_the_same_settings(
    folder: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class UMAP:
        def __init__(self, **settings: Any) -> None:
            asked.update(settings)

        def fit_transform(self, vectors: Any) -> Any:
            return vectors[:, :2]

    module = types.ModuleType("umap")
    module.UMAP = UMAP  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", module)
    found = map_documents(folder, model=str(tiny_model_dir), method="umap", perplexity=12.0)
    assert asked == {"n_neighbors": 12, "metric": "cosine", "random_state": 42, "n_jobs": 1}
    assert "(UMAP)" in found.to_chart().title
    assert "12 neighbours" in found.to_chart().caption


def test_a_long_first_line_is_no_name_of_a_map_s_file() -> None:
    found = DocumentMap("d/x", "qrels", "st:org/m", "r", "tsne", 30.0, 42, 0.5, 0.1, ("i",), ("l",), ((0.0, 0.0),))
    assert found.name == "map-d-x-qrels-st-org-m-tsne"
