"""Calibration: run a model on texts to choose how its integer weights are made, and to say what they cost.

The fp32 graph runs once over the texts with every linear layer's input as an output. From that come each channel's
range and a sample of tokens; ``equalise.py`` turns them into factors. A layer's sensitivity is what it costs to put
that one layer in integers; where a bound on the cosine is asked for, the most sensitive ones stay in float32.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from diffembed.errors import InputError, ModelError
from diffembed.models.checkpoint import load_tokenizer
from diffembed.models.encoder_graph import GraphSource
from diffembed.models.equalise import Fold, best_factors, int8_plan
from diffembed.models.files import map_tensor
from diffembed.models.graph import GraphBuilder
from diffembed.models.integers import FloatArray, Int8Plan, Int8Report
from diffembed.runtime.onnx import padded_inputs
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack
from diffembed.vectors.quantize import quantize, unit

TOKENS_A_TEXT = 256
SAMPLED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the fp32 model does on some texts.

    Attributes:
        texts: one sequence a text.
        vectors: ``[texts, D]`` finished float32 vectors.
        peaks: by linear layer ``[K]``, the largest magnitude of each input channel over all tokens.
        rows: by linear layer ``[R, K]``, the inputs of some tokens.
    """

    texts: tuple[PackedBatch, ...]
    vectors: FloatArray
    peaks: Mapping[str, FloatArray]
    rows: Mapping[str, FloatArray]


def calibrate(source: GraphSource, texts: Sequence[str]) -> Calibration:
    """Run the fp32 graph over texts, one at a time, and keep what equalisation needs to know.

    Raises:
        InputError: no text of at least one token.
        ModelError: the weights give vectors that are not numbers.
    """
    batches = tokenized(source, texts)
    g = GraphBuilder(detach=True)
    outputs = source.write(g)
    names = {value: f"watched_{i}" for i, value in enumerate(dict.fromkeys(g.inputs.values()))}
    run = _session(source, g, g.model({"mean": outputs["mean"]}, {}, {n: v for v, n in names.items()}))
    rng = np.random.default_rng(0)
    per_text = -(-SAMPLED_TOKENS // len(batches))
    peaks: dict[str, FloatArray] = {}
    rows: dict[str, list[FloatArray]] = {name: [] for name in names.values()}
    means = []
    for batch in batches:
        mean, *seen = run(["mean", *names.values()], batch)
        if not np.isfinite(mean).all():
            raise ModelError(f"{source.file} gives a vector that is not all finite numbers: damaged, or badly trained")
        means.append(mean)
        chosen = rng.choice(batch.tokens, min(per_text, batch.tokens), replace=False)
        for name, states in zip(names.values(), seen, strict=True):
            peak = np.abs(states[0]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
            rows[name].append(states[0][chosen])
    sampled = {name: np.concatenate(parts) for name, parts in rows.items()}
    return Calibration(
        tuple(batches),
        finished(source, np.concatenate(means)),
        {layer: peaks[names[value]] for layer, value in g.inputs.items()},
        {layer: sampled[names[value]] for layer, value in g.inputs.items()},
    )


def choose_plan(
    source: GraphSource, texts: Sequence[str], *, keep_float: Sequence[str] = (), min_cosine: float | None = None
) -> tuple[Int8Plan, Int8Report]:
    """The int8 plan of a model, calibrated on texts.

    Args:
        source: the model.
        texts: a few dozen to a few hundred; of each the first ``TOKENS_A_TEXT`` tokens are read.
        keep_float: layers to leave in float32: names, or patterns with ``*``.
        min_cosine: least mean cosine over the texts: until it holds, the most sensitive layer that is still in integers
            goes back to float32. Measuring takes a run over the texts a layer.

    Raises:
        InputError: a pattern that no layer matches, a bound outside 0 to 1, no text.
        ModelError: as ``calibrate``.
    """
    if min_cosine is not None and not 0 < min_cosine < 1:
        raise InputError(f"min_cosine is {min_cosine}; give a number between 0 and 1, such as 0.998")
    found = calibrate(source, texts)
    layers = list(found.peaks)
    kept = _matching(layers, keep_float)
    factors = fold_factors(source, found)
    plan = int8_plan(factors, float_layers=frozenset(kept))
    reached = cosines(source, found, plan)
    if min_cosine is not None and reached.mean() < min_cosine:
        by_loss = sensitivity(source, found, factors, [layer for layer in layers if layer not in kept])
        for layer in sorted(by_loss, key=lambda name: -by_loss[name]):
            kept.append(layer)
            plan = replace(int8_plan(factors, float_layers=frozenset(kept)), known=plan.known)
            reached = cosines(source, found, plan)
            if reached.mean() >= min_cosine:
                break
    more = sum(3 * source.tensor(f"{layer}.weight").size for layer in kept)
    return plan, Int8Report(len(found.texts), float(reached.mean()), float(reached.min()), tuple(kept), more)


def sensitivity(
    source: GraphSource, found: Calibration, factors: Mapping[Fold, FloatArray], layers: Sequence[str]
) -> dict[str, float]:
    """By layer, the mean cosine lost when it alone is in integers."""
    every = frozenset(found.peaks)
    plans = {layer: int8_plan(factors, float_layers=every - {layer}) for layer in layers}
    return {layer: 1 - float(cosines(source, found, plan).mean()) for layer, plan in plans.items()}


def fold_factors(source: GraphSource, found: Calibration) -> dict[Fold, FloatArray]:
    """Channel factors of least error on the calibration's tokens, fold by fold."""
    factors = {}
    for fold in source.folds():
        first = fold.readers[0]
        weights = [source.tensor(f"{layer}.weight") for layer in fold.readers]
        factors[fold] = best_factors(fold, found.peaks[first], found.rows[first], weights)
    return factors


def cosines(source: GraphSource, found: Calibration, plan: Int8Plan) -> FloatArray:
    """``[texts]``: each calibration text's vector under a plan against its fp32 vector."""
    g = GraphBuilder(plan, detach=True)
    outputs = source.write(g)
    run = _session(source, g, g.model({"mean": outputs["mean"]}, {}))
    vectors = finished(source, np.concatenate([run(["mean"], batch)[0] for batch in found.texts]))
    return np.asarray(np.einsum("ij,ij->i", unit(vectors), unit(found.vectors)), dtype=np.float32)


def tokenized(source: GraphSource, texts: Sequence[str]) -> list[PackedBatch]:
    """One batch a text, read as a document and cut to ``TOKENS_A_TEXT``; texts without a token are left out."""
    config = source.config
    room = min(TOKENS_A_TEXT, config.max_tokens) - len(config.prefix_ids) - len(config.suffix_ids)
    documents = [config.document_prompt + text for text in texts if text]
    encoded = load_tokenizer(source.root).encode_batch_fast(documents, add_special_tokens=False)
    sequences = [(*config.prefix_ids, *e.ids[:room], *config.suffix_ids) for e in encoded if e.ids]
    if not sequences:
        raise InputError("calibration needs a text of at least one token, none was given")
    return [pack([TokenizedSequence(ids, ((0, len(ids)),))]) for ids in sequences]


def finished(source: GraphSource, means: FloatArray) -> FloatArray:
    """Span means as the float32 vectors a user gets."""
    config = source.config
    vectors: FloatArray = quantize(means, "float32", quantizer=config.quantizer, normalize=config.normalize)
    return vectors


def _session(
    source: GraphSource, g: GraphBuilder, model: bytes
) -> Callable[[list[str], PackedBatch], list[npt.NDArray[Any]]]:
    """A graph in memory, ready to give the named outputs for a batch."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    outside = dict(g.detached)
    if source.table is not None:
        outside[source.table] = map_tensor(source.file, source.stored[source.table])
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in outside.items()}
    options.add_external_initializers(list(values), list(values.values()))
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(names: list[str], batch: PackedBatch, _lent: object = values) -> list[npt.NDArray[Any]]:
        """The session only borrows the memory of ``_lent``."""
        given: list[npt.NDArray[Any]] = session.run(names, padded_inputs(batch, source.config.pad_token_id))
        return given

    return run


def _matching(layers: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The layers that one of the patterns names, in the layers' order."""
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise InputError(f"no linear layer is called {pattern!r}; the layers are {', '.join(layers[:8])} and so on")
    return [layer for layer in layers if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)]
