"""scikit-learn's own checks, pipelines, grid search and pickling around our transformer."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError
from diffembed.integrations.bound import as_floats
from diffembed.models.checkpoint import CONFIG_FILE
from diffembed.vectors.embeddings import VectorDtype

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import estimator_checks, get_tags

from diffembed.integrations.sklearn import DiffembedVectorizer

TEXTS = ["a cat sleeps", "the cat is old", "cats and a sofa", "def f(x): return x", "import numpy", "x = f(y) + 1"]
LABELS = ["cat", "cat", "cat", "code", "code", "code"]


@pytest.fixture
def vectorizer(tiny_model_dir: Path) -> DiffembedVectorizer:
    return DiffembedVectorizer(str(tiny_model_dir), precision="fp32", threads=1)


# scikit-learn runs its whole list on estimators of number tables only; these are the checks that give no table.
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_tags_renamed,
        estimator_checks.check_valid_tag_types,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
        estimator_checks.check_mixin_order,
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
    ],
)
def test_scikit_learns_checks(check: Callable[[str, Any], None]) -> None:
    check("DiffembedVectorizer", DiffembedVectorizer())


@pytest.mark.filterwarnings("ignore:Can't test estimator:UserWarning")
def test_check_estimator_knows_that_it_takes_strings() -> None:
    estimator_checks.check_estimator(DiffembedVectorizer())
    assert get_tags(DiffembedVectorizer()).input_tags.string


@pytest.mark.parametrize("dtype", ["float32", "int8", "binary"])
def test_features_are_the_encoders_vectors(
    dtype: VectorDtype, vectorizer: DiffembedVectorizer, tiny_encoder: Encoder
) -> None:
    vectorizer.set_params(dtype=dtype, dims=32)
    features = vectorizer.fit_transform(np.array(TEXTS))
    assert np.allclose(features, as_floats(tiny_encoder.encode_documents(TEXTS, dtype=dtype, dims=32)), atol=1e-6)
    assert features.dtype == np.float32
    assert vectorizer.get_feature_names_out().tolist() == [f"diffembedvectorizer{i}" for i in range(32)]
    assert vectorizer.fit(TEXTS) is vectorizer


def test_it_classifies_in_a_pipeline_and_a_grid_search(vectorizer: DiffembedVectorizer) -> None:
    pipeline = Pipeline([("vectors", vectorizer), ("classes", LogisticRegression())])
    assert pipeline.fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1.0
    search = GridSearchCV(pipeline, {"vectors__dims": [16, 64], "vectors__dtype": ["int8", "binary"]}, cv=3)
    search.fit(TEXTS, LABELS)
    assert search.best_params_["vectors__dims"] in (16, 64)
    assert len(search.cv_results_["params"]) == 4


def test_columns_of_a_table(vectorizer: DiffembedVectorizer) -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"text": TEXTS, "length": [len(text) for text in TEXTS]}, index=list("abcdef"))
    columns = ColumnTransformer(
        [("vectors", vectorizer.set_params(dims=16), "text"), ("rest", "passthrough", ["length"])]
    )
    made = columns.set_output(transform="pandas").fit_transform(table)
    assert made.shape == (6, 17)
    assert made.columns[0] == "vectors__diffembedvectorizer0"
    assert list(made.index) == list("abcdef")


def test_clones_and_pickles_give_the_same_features(vectorizer: DiffembedVectorizer) -> None:
    vectorizer.set_params(dims=16, dtype="int8")
    assert clone(vectorizer).get_params() == vectorizer.get_params()
    with pytest.raises(NotFittedError):
        vectorizer.transform(TEXTS)
    features = vectorizer.fit_transform(TEXTS)
    packed = pickle.dumps(vectorizer)
    assert len(packed) < 2000  # the options, not the weights
    assert np.array_equal(pickle.loads(packed).transform(TEXTS), features)  # noqa: S301 # our own, just made


def test_a_pickle_refuses_another_model(vectorizer: DiffembedVectorizer, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    packed = pickle.dumps(vectorizer.set_params(model=str(model)).fit(TEXTS))
    config = model / CONFIG_FILE
    config.write_text(config.read_text().replace('"tiny"', '"other"'))
    with pytest.raises(ModelError, match="another one than this vectorizer was fitted with"):
        pickle.loads(packed).transform(TEXTS)  # noqa: S301 # our own, just made


def test_what_it_refuses(vectorizer: DiffembedVectorizer) -> None:
    fitted = clone(vectorizer).fit(TEXTS)
    with pytest.raises(InputError, match="one string"):
        fitted.transform("a text")
    with pytest.raises(InputError, match="text 1 is empty"):
        fitted.transform(["a text", " "])
    for wrong in ({"dims": 17}, {"dtype": "int4"}, {"kind": "passage"}):
        with pytest.raises(InputError, match=str(next(iter(wrong.values())))):
            clone(vectorizer).set_params(**wrong).fit(TEXTS)
