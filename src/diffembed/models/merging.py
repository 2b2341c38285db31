"""Merging: several models of one shape become one, tensor by tensor, without training.

``slerp`` interpolates two models on the great circle between them (how pplx-embed joins its contextual and its triplet
checkpoint, arXiv 2602.11151), ``linear`` adds weighted models up, ``soup`` is the mean of many (Wortsman et al. 2022,
arXiv 2203.05482). Sums are made in float64, a block at a time: a large tensor is never widened whole.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from diffembed.errors import InputError, ModelError
from diffembed.models import checkpoint
from diffembed.models.backbone import require_attention

Method = Literal["slerp", "linear", "soup"]

_BLOCK = 1 << 17  # numbers that are widened to float64 at a time: few enough to stay in the cache
_HEAD = "head"  # an untied output matrix among the tensors of a state; no backbone has a tensor of this name
_OWN = r"^(name|dims|contextual|manifest)$"  # of diffembed.json, what parents need not share
_NO_SHAPE = (  # of config.json, what changes no state; the token ids that count are those of diffembed.json
    r"^(_.*|.*_token_id|.*dropout.*|architectures|dtype|initializer_range|transformers_version|use_cache)$"
)
_ORIGIN = ("recipe", "stage", "stage_fingerprint")  # of a parent's manifest, what the merged model's repeats


def slerp(a: Tensor, b: Tensor, t: float, eps: float = 1e-4) -> Tensor:
    """Spherical interpolation of two tensors, each read as one flat vector (Shoemake 1985).

    ``sin((1 - t) w) / sin w * a + sin(t w) / sin w * b``, where ``w`` is the angle between ``a`` and ``b``. Two tensors
    of one length give that length; the tensors are not normalised, so others give a length of their own.

    Args:
        t: 0 gives ``a``, 1 gives ``b``, bit for bit.
        eps: linear where ``sin w`` is not above it, or a tensor is 0: nearly parallel tensors, where linear differs by
            less than float32 can hold, and nearly opposite ones, between which no great circle is the shortest.

    Returns:
        Shape and dtype of ``a``.

    Raises:
        InputError: ``t`` is outside 0..1; shapes or dtypes differ, or are not floating-point.

    >>> slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0]), 0.5)
    tensor([1.4142, 1.4142])
    """
    if not 0.0 <= t <= 1.0:
        raise InputError(f"slerp got t={t}; it lies between two tensors: give t from 0 to 1")
    _require_alike((a, b))
    if t in (0.0, 1.0):
        return (b if t else a).detach().clone()
    lengths = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    w = math.acos(max(-1.0, min(1.0, _dot(a, b) / lengths))) if lengths > 0 else 0.0
    if not math.sin(w) > eps:
        return _sum((a, b), (1 - t, t))
    return _sum((a, b), (math.sin((1 - t) * w) / math.sin(w), math.sin(t * w) / math.sin(w)))


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted sum of tensors of one shape and dtype.

    Raises:
        InputError: not one weight for each tensor; shapes or dtypes differ, or are not floating-point.

    >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], [0.75, 0.25])
    tensor([1.5000, 3.0000])
    """
    if not tensors or len(tensors) != len(weights):
        raise InputError(f"linear got {len(tensors)} tensors and {len(weights)} weights; give one weight for each")
    _require_alike(tensors)
    return _sum(tensors, weights)


def soup(tensors: Sequence[Tensor]) -> Tensor:
    """The mean of tensors; raises as ``linear``.

    >>> soup([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])])
    tensor([2., 4.])
    """
    return linear(tensors, [1 / len(tensors) for _ in tensors])


def merge_state_dicts(
    states: Sequence[Mapping[str, Tensor]], method: Method, weights: Sequence[float] = ()
) -> dict[str, Tensor]:
    """Merge every tensor of two or more states; tensors that hold no floats must be equal in all.

    Args:
        weights: of ``slerp`` ``(1 - t, t)``, for exactly two states; of ``linear`` one for each, together 1 (a negative
            one leads away from its state); of ``soup`` none.

    Raises:
        InputError: the method is unknown, or the weights are not as it needs them.
        ModelError: names the first tensor that differs in name, shape or dtype, or that is not finite once merged.
    """
    weights = _settled(method, len(states), weights)
    merged: dict[str, Tensor] = {}
    for name in sorted({name for state in states for name in state}):
        if lacking := [str(i) for i, state in enumerate(states, start=1) if name not in state]:
            raise ModelError(
                f"tensor {name} is not in model {', '.join(lacking)} of {len(states)}; merge models of one architecture"
            )
        tensors = [state[name] for state in states]
        forms = [f"{list(x.shape)} {x.dtype}" for x in tensors]
        if len(set(forms)) > 1:
            raise ModelError(
                f"tensor {name} is {' and '.join(forms)} in the models; merge models of one shape, read in one dtype"
            )
        if tensors[0].is_floating_point():
            pair = method == "slerp"
            merged[name] = slerp(tensors[0], tensors[1], weights[1]) if pair else linear(tensors, weights)
        elif all(torch.equal(x, tensors[0]) for x in tensors):
            merged[name] = tensors[0].clone()
        else:
            raise ModelError(f"tensor {name} ({forms[0]}) is no weight, but differs; merge models made from one base")
        if not bool(torch.isfinite(merged[name]).all()):
            raise ModelError(f"tensor {name} is not finite once merged; look for NaN in the models, merge in float32")
    return merged


@dataclass(frozen=True, slots=True)
class Parents:
    """Models that fit together, read once: a sweep over weights merges them again and again in memory.

    Attributes:
        config: of a merged model, but for its name and manifest.
        model: the backbone of the parent ``like``; its weights are one of the states and are not written to.
        states: tensors of every backbone, and its untied output matrix where all have one.
        facts: what a merged model's manifest says of every parent.
    """

    paths: tuple[Path, ...]
    config: checkpoint.ModelConfig
    model: PreTrainedModel
    tokenizer: Tokenizer
    states: tuple[dict[str, Tensor], ...]
    facts: tuple[dict[str, Any], ...]


def read_parents(paths: Sequence[str | Path], *, like: int = 0, attn_implementation: str = "sdpa") -> Parents:
    """Read two or more model directories and check that they can be merged.

    Args:
        paths: models of one shape and one tokenizer, which make vectors in one way.
        like: whose ``diffembed.json`` the merged model keeps (counted from 0; it decides ``contextual``); ``dims`` are
            those that all have.
        attn_implementation: what the merged models run on.

    Raises:
        InputError: fewer than two, or no parent ``like``.
        ModelError: a directory is damaged, or two differ; names in what.
    """
    roots = tuple(map(Path, paths))
    if len(roots) < 2 or not 0 <= like < len(roots):
        raise InputError(f"{len(roots)} models and like={like} were given to merge; give two or more, like one of them")
    configs = [checkpoint.read_model_config(root) for root in roots]
    _require_equal(roots, "diffembed.json", [_without(asdict(c), _OWN) for c in configs])
    tokenizers = [checkpoint.load_tokenizer(root) for root in roots]
    _require_equal(roots, "tokenizer.json", [json.loads(t.to_str()) for t in tokenizers])
    models = [checkpoint.load_backbone(root, attn_implementation=attn_implementation) for root in roots]
    _require_equal(roots, "config.json", [_without(m.config.to_dict(), _NO_SHAPE) for m in models])
    states: list[dict[str, Tensor]] = [dict(model.state_dict()) for model in models]
    heads = [head for root in roots if (head := checkpoint.load_head(root)) is not None]
    if len(heads) == len(roots):
        states = [state | {_HEAD: head} for state, head in zip(states, heads, strict=True)]
    facts = []
    for root, config in zip(roots, configs, strict=True):
        origin = {key: config.manifest[key] for key in _ORIGIN if key in config.manifest}
        facts.append({"name": config.name, "weights_sha256": _sha256(root), "manifest": origin})
    dims = tuple(sorted(set.intersection(*(set(c.dims) for c in configs))))
    kept = replace(configs[like], dims=dims)
    return Parents(roots, kept, models[like], tokenizers[like], tuple(states), tuple(facts))


def merged_backbone(parents: Parents, method: Method, weights: Sequence[float] = ()) -> PreTrainedModel:
    """A new backbone with the merged weights, probed, in eval mode; raises as ``merge_state_dicts``."""
    return _merge(parents, method, weights)[0]


def merge_models(
    parents: Sequence[str | Path],
    into: str | Path,
    *,
    method: Method,
    weights: Sequence[float] = (),
    like: int = 0,
    name: str | None = None,
    extra_manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Merge model directories into a new one, written whole or not at all.

    Args:
        parents, like: as ``read_parents`` takes them.
        into: the directory to make; one that exists is replaced, but a parent is not.
        method, weights: as ``merge_state_dicts`` takes them.
        name: of the merged model; ``None``: the name of the parent ``like``, then the method.
        extra_manifest: what the manifest says besides ``merge``, in which parents' paths are relative to ``into``.

    Raises:
        InputError: ``into`` is a parent; the parents' number, ``like``, method or weights are of no use.
        ModelError: a parent is damaged, or two do not fit together.
        TrainingError: it could not be written.
    """
    target, used = Path(into), list(_settled(method, len(parents), weights))
    if target.resolve() in {Path(parent).resolve() for parent in parents}:
        raise InputError(f"{target} is one of the models to merge; give another directory to merge into")
    read = read_parents(parents, like=like)
    model, head = _merge(read, method, weights)
    place = target.parent.resolve() / target.name
    paths = [Path(os.path.relpath(path.resolve(), place)).as_posix() for path in read.paths]
    described = [{"path": path, **facts} for path, facts in zip(paths, read.facts, strict=True)]
    manifest = {**(extra_manifest or {}), "merge": {"method": method, "weights": used, "parents": described}}
    config = replace(read.config, name=name or f"{read.config.name}-{method}", manifest=manifest)
    return checkpoint.save_model(target, model, read.tokenizer, config, head=head)


def _merge(parents: Parents, method: Method, weights: Sequence[float]) -> tuple[PreTrainedModel, Tensor | None]:
    state = merge_state_dicts(parents.states, method, weights)
    head = state.pop(_HEAD, None)
    model = copy.deepcopy(parents.model)
    model.load_state_dict(state)
    require_attention(model, causal=parents.config.attention == "causal")
    return model, head


def _settled(method: str, count: int, weights: Sequence[float]) -> tuple[float, ...]:
    """The weight of every model, checked."""
    given = f"method '{method}' and weights {list(weights)} were given to merge {count} models"
    if method not in get_args(Method):
        raise InputError(f"{given}; the methods are {', '.join(get_args(Method))}")
    if count < 2 or (method == "slerp" and count != 2):
        raise InputError(f"{given}; give {'exactly two models' if method == 'slerp' else 'two models or more'}")
    if method == "soup":
        if len(weights):
            raise InputError(f"{given}; a soup weighs all alike: give no weights, or method 'linear'")
        return (1 / count,) * count
    if len(weights) != count or not abs(sum(weights) - 1) <= 1e-6:
        raise InputError(f"{given}; give one weight for each model, together 1")
    if method == "slerp" and not 0 <= weights[1] <= 1:
        raise InputError(f"{given}; slerp lies between its models: give (1 - t, t) with t from 0 to 1")
    return tuple(map(float, weights))


def _require_alike(tensors: Sequence[Tensor]) -> None:
    forms = {(x.shape, x.dtype) for x in tensors}
    if len(forms) > 1 or not tensors[0].is_floating_point():
        found = " and ".join(f"{list(x.shape)} {x.dtype}" for x in tensors)
        raise InputError(f"tensors {found} were given to merge; give floating-point ones of one shape and dtype")


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(x.detach().reshape(-1), _BLOCK) for x in tensors), strict=True)


def _dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x.double() @ y.double()) for x, y in _blocks(a, b))


def _sum(tensors: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
    result = torch.empty(tensors[0].shape, dtype=tensors[0].dtype, device=tensors[0].device)
    for part, *blocks in _blocks(result, *tensors):
        total = torch.zeros_like(part, dtype=torch.float64)
        for block, factor in zip(blocks, factors, strict=True):
            total.add_(block, alpha=factor)
        part.copy_(total)
    return result


def _without(settings: Mapping[str, Any], pattern: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if not re.search(pattern, key)}


def _require_equal(roots: Sequence[Path], file: str, settings: Sequence[Mapping[str, Any]]) -> None:
    for root, found in zip(roots, settings, strict=True):
        for key in sorted({*found, *settings[0]}):
            pair = [repr(of.get(key)) for of in (settings[0], found)]
            if pair[0] != pair[1]:
                values = f" ({pair[0]} and {pair[1]})" if max(map(len, pair)) < 80 else ""
                raise ModelError(
                    f"{key} of {file} differs between {roots[0]} and {root}{values}; give models made from one base"
                )


def _sha256(root: Path) -> str:
    with (root / checkpoint.WEIGHTS_FILE).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
