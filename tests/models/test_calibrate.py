"""Calibration sees what the stock model computes, finds the layers that integers hurt, and keeps its bound."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import CORPUS
from tests.models.graphs import calibration, make_model, save, source_of, states

from diffembed.errors import InputError, ModelError
from diffembed.models.calibrate import calibrate, choose_plan, cosines, fold_factors, sensitivity, tokenized
from diffembed.models.checkpoint import load_tokenizer
from diffembed.models.encoder_graph import GraphSource
from diffembed.models.equalise import int8_plan
from diffembed.models.graph import GraphBuilder
from diffembed.text.batching import TokenizedSequence


@contextmanager
def watched(model: Any, peaks: dict[str, np.ndarray]) -> Iterator[None]:
    """torch's own view: the largest magnitude of each input channel of every linear layer."""

    def hook(name: str) -> Any:
        def seen(module: Any, inputs: Any) -> None:
            peak = inputs[0].detach().abs().flatten(0, -2).amax(0).numpy()
            peaks[name] = np.maximum(peaks.get(name, peak), peak)

        return seen

    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linear]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="module", params=["bert", "qwen3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, GraphSource]:
    model = make_model(request.param)
    return model, source_of(save(tmp_path_factory.mktemp("calibrate") / request.param, model))


def test_ranges_and_vectors_are_those_of_the_stock_model(made: tuple[Any, GraphSource]) -> None:
    model, source = made
    found = calibration(source)
    peaks: dict[str, np.ndarray] = {}
    with watched(model, peaks):
        for text, vector in zip(found.texts, found.vectors, strict=True):
            ids = TokenizedSequence(tuple(text.token_ids.tolist()), ((0, text.tokens),))
            mean = states(model, [ids])[0].mean(axis=0)
            assert np.abs(np.tanh(mean) - vector).max() < 1e-5
    assert set(found.peaks) == set(peaks)
    for layer, peak in peaks.items():
        assert np.allclose(found.peaks[layer], peak, rtol=1e-4, atol=1e-5), layer
        assert np.abs(found.rows[layer]).max(axis=0).max() <= peak.max() * (1 + 1e-4)
        assert len(found.rows[layer]) > 50


def test_the_damaged_layer_is_the_most_sensitive(tmp_path: Path) -> None:
    """Weights of which one in a column is 1,000 times the others have nothing left for these in a byte."""
    model = make_model("qwen3")
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[:, 5] = 200.0
        model.layers[1].mlp.up_proj.weight[5] = 0.0  # so that the large weights themselves count for nothing
    source = source_of(save(tmp_path / "damaged", model))
    found = calibration(source)
    by_loss = sensitivity(source, found, {}, list(found.peaks))
    assert max(by_loss, key=lambda layer: by_loss[layer]) == "layers.1.mlp.down_proj"
    assert by_loss["layers.1.mlp.down_proj"] > 10 * sorted(by_loss.values())[-2]
    plan, report = choose_plan(source, CORPUS, min_cosine=0.99)
    assert plan.float_layers == {*report.float_layers} <= {"layers.1.mlp.down_proj"}
    assert report.cosine_mean >= 0.99


def test_a_bound_leaves_out_as_few_layers_as_hold_it(made: tuple[Any, GraphSource]) -> None:
    _, source = made
    _, whole = choose_plan(source, CORPUS)
    assert whole.float_layers == ()
    bound = (1 + whole.cosine_mean) / 2
    plan, report = choose_plan(source, CORPUS, min_cosine=bound)
    assert whole.cosine_mean < bound <= report.cosine_mean
    found = calibration(source)
    by_loss = sensitivity(source, found, fold_factors(source, found), list(found.peaks))
    worst = sorted(by_loss, key=lambda layer: -by_loss[layer])
    assert list(report.float_layers) == worst[: len(report.float_layers)]
    sizes = {len(write(source, p)) for p in (plan, choose_plan(source, CORPUS, keep_float=report.float_layers)[0])}
    assert len(sizes) == 1
    more = sizes.pop() - len(write(source, choose_plan(source, CORPUS)[0]))
    assert more == pytest.approx(report.float_bytes, rel=0.25)


def write(source: GraphSource, plan: Any) -> bytes:
    g = GraphBuilder(plan)
    return g.model(source.write(g), {})


def test_layers_are_kept_by_pattern(made: tuple[Any, GraphSource]) -> None:
    _, source = made
    every = list(calibration(source).peaks)
    plan, report = choose_plan(source, CORPUS, keep_float=["*layer*.1.*", every[0]])
    assert set(report.float_layers) == plan.float_layers == {every[0], *(n for n in every if ".1." in n)}
    _, none = choose_plan(source, CORPUS, keep_float=["*"])
    assert none.cosine_least == pytest.approx(1, abs=1e-5)


def test_what_makes_no_sense_is_refused(made: tuple[Any, GraphSource]) -> None:
    _, source = made
    with pytest.raises(InputError, match=r"no linear layer is called 'layers.9\.\*'"):
        choose_plan(source, CORPUS, keep_float=["layers.9.*"])
    for bound in (0.0, 1.0, 99.8, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            choose_plan(source, CORPUS, min_cosine=bound)
    for nothing in ([], [""]):
        with pytest.raises(InputError, match="at least one token"):
            calibrate(source, nothing)


def test_the_size_of_a_gain_costs_nothing(tmp_path: Path) -> None:
    """Large norm gains before small weights: by powers of two every integer stays, and no epsilon may notice."""
    found = []
    for factor in (1.0, 2.0**-12):
        model = make_model("qwen3")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "input_layernorm" in name:
                    parameter /= factor
                elif name.removesuffix(".weight").endswith(("q_proj", "k_proj", "v_proj")):
                    parameter *= factor
        source = source_of(save(tmp_path / str(factor), model))
        found.append(cosines(source, calibration(source), int8_plan({})))
    assert np.abs(found[0] - found[1]).max() < 1e-5


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model = make_model("qwen3")
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3, 3] = float("nan")
    source = source_of(save(tmp_path / "broken", model))
    with pytest.raises(ModelError, match=r"model\.safetensors gives a vector that is not all finite"):
        choose_plan(source, CORPUS, min_cosine=0.9)


def test_texts_are_read_as_documents(tmp_path: Path) -> None:
    """As ``Encoder.encode_documents`` reads them: the model's prompt before each text, its tokens around both."""
    path = save(tmp_path / "model", make_model("bert"))
    changed = {"document_prompt": "doc: ", "prefix_ids": [4], "suffix_ids": [5, 6]}
    (path / "diffembed.json").write_text(json.dumps(json.loads((path / "diffembed.json").read_text()) | changed))
    source = source_of(path)
    ids = load_tokenizer(path).encode("doc: a b", add_special_tokens=False).ids
    assert [b.token_ids.tolist() for b in tokenized(source, ["", "a b"])] == [[4, *ids, 5, 6]]
    with pytest.raises(InputError, match="at least one token"):
        calibrate(source, [""])


def test_long_texts_are_cut_and_empty_ones_left_out(made: tuple[Any, GraphSource]) -> None:
    _, source = made
    batches = tokenized(source, ["word " * 1000, "", "a"])
    assert [b.tokens for b in batches] == [256, batches[1].tokens]
