"""Backbones: a decoder of stock ``transformers``, its attention mask opened, and proof that it is open.

Opening is one configuration flag (``is_causal = False``), never a copied modelling file. A flag can be ignored by a
kernel, a mask can be dropped where nothing is padded, one kind of layer can stay causal while the others open. So the
probe runs the model on toy sequences, alone, batched, padded and packed, and looks inside every attention layer: does
a late token change an early row of what the layer gives? It also looks for the opposite fault, states that change with
padding, with a neighbour, or with a neighbour's length.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Qwen3Config, Qwen3Model

from diffembed.errors import ModelError
from diffembed.models.attention import PACKED, plan_packing
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack

_LENGTH = 12  # tokens of the sequence that the probe looks at
_LEAK = {torch.float32: 1e-3, torch.float64: 1e-6}  # of the largest state: what other shapes may change by rounding
_LEAK_HALF = 0.1
_AROUND: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # lengths of the sequences before and after it
    "alone": ((), ()),
    "batched": ((), (_LENGTH,)),
    "padded": ((), (_LENGTH + 5, 4)),
    "packed": ((4,), (9,)),
    "packed with a long text": ((), (4,)),
}
_LONG = "packed with a long text"  # its neighbour is only the end of a long text, at the positions it would have there


def build_qwen3(
    *,
    vocab_size: int,
    hidden_size: int,
    layers: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    intermediate_size: int,
    max_tokens: int,
    rope_theta: float,
    pad_token_id: int,
    eos_token_id: int,
    seed: int,
) -> PreTrainedModel:
    """A Qwen3-shaped decoder with fresh weights, still causal, on packed attention."""
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=intermediate_size,
        max_position_embeddings=max_tokens,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        pad_token_id=pad_token_id,
        eos_token_id=eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(seed)
    model = Qwen3Model(config)
    model.set_attn_implementation(PACKED)
    set_causal(model, True)
    return model


def set_causal(model: PreTrainedModel, causal: bool) -> None:
    """Close or open the attention mask: the config's flag, and the attribute that fused kernels read."""
    model.config.is_causal = causal
    for module in model.modules():
        if hasattr(module, "is_causal"):
            setattr(module, "is_causal", causal)  # noqa: B010 (a plain attribute, which nn.Module's types do not know)


def packed_states(model: PreTrainedModel, batch: PackedBatch) -> Tensor:
    """Final-norm states ``[tokens, hidden]`` of a packed batch."""
    states: Tensor = _run_packed(model, batch).last_hidden_state[0]
    return states


def packed_layers(model: PreTrainedModel, batch: PackedBatch) -> tuple[Tensor, ...]:
    """States ``[tokens, hidden]`` after every layer of a packed batch; the last are the final-norm states."""
    output = _run_packed(model, batch, output_hidden_states=True)
    inner = output.hidden_states[1:-1]  # the first are the token embeddings
    return (*(states[0] for states in inner), output.last_hidden_state[0])


def _run_packed(model: PreTrainedModel, batch: PackedBatch, **options: Any) -> Any:
    device = model.device
    return model(
        input_ids=torch.from_numpy(batch.token_ids)[None].to(device),
        position_ids=torch.from_numpy(batch.position_ids)[None].to(device),
        attention_mask=None,
        use_cache=False,
        packing=plan_packing(batch.cu_seqlens, device),
        **options,
    )


def token_embedding(model: PreTrainedModel) -> Tensor:
    """The token-embedding table ``[vocab, hidden]``, which is the output matrix too where the two are tied."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding)
    return embedding.weight


def probe_direction(model: PreTrainedModel) -> bool:
    """Whether a late token changes an early state on the model's own attention implementation.

    Raises:
        ModelError: forms of input or layers disagree, so what the model reads would depend on its batch; states change
            with padding or neighbours; the implementation does not run.
    """
    return _probe(model)[0]


def require_attention(model: PreTrainedModel, *, causal: bool) -> None:
    """Refuse a backbone whose mask is not as it should be: open, or ``causal``.

    Raises:
        ModelError: names the attention implementation that it runs on.
    """
    if not causal:
        require_bidirectional(model)
    elif probe_direction(model):
        raise ModelError(
            f"the backbone should be causal, but on attention '{model.config._attn_implementation}' a late token "
            "changes an early state; close its mask with set_causal(model, True)"
        )


def require_bidirectional(model: PreTrainedModel, implementations: Sequence[str] = ()) -> None:
    """Refuse a backbone whose states cannot see what comes later.

    Args:
        model: comes back on the attention implementation that it came with.
        implementations: each is probed, and all must give the same states; none: the model's own.

    Raises:
        ModelError: names the implementation.
    """
    own = str(model.config._attn_implementation)
    results: dict[str, Tensor] = {}
    try:
        for name in implementations or (own,):
            _use_attention(model, name)
            seen, states = _probe(model)
            if not seen:
                raise ModelError(
                    f"the backbone is causal on attention '{name}': a late token changed no early state; "
                    "open its mask with set_causal(model, False)"
                )
            results[name] = states
            reference = next(iter(results))
            if _differ(states, results[reference]):
                raise ModelError(
                    f"attention '{name}' and attention '{reference}' give different states: one leaves out what the "
                    f"other does; use attn_implementation='{reference}'"
                )
    finally:
        _use_attention(model, own)


def _use_attention(model: PreTrainedModel, name: str) -> None:
    if name == model.config._attn_implementation:
        return
    try:
        model.set_attn_implementation(name)
    except (ValueError, ImportError) as error:
        raise ModelError(f"the backbone does not run on attention '{name}': {_first_line(error)}") from error


def _probe(model: PreTrainedModel) -> tuple[bool, Tensor]:
    """The verdict, and the states of the probed sequence alone."""
    name = str(model.config._attn_implementation)
    vocabulary = token_embedding(model).shape[0]
    probed = [(3 + 7 * i) % vocabulary for i in range(_LENGTH)]
    changed = [*probed[:-1], (probed[-1] + 1) % vocabulary]
    verdicts: dict[str, bool] = {}
    by_form: dict[str, Tensor] = {}
    frequencies: dict[str, list[Tensor]] = {}
    was_training = model.training
    model.train(False)
    try:
        for form in _AROUND:
            if (form.startswith("packed") and name != PACKED) or (form == _LONG and not _rotary_types(model)):
                continue
            first, second = _Recorder(), _Recorder()
            states, others = (_run(model, form, ids, r, first) for ids, r in ((probed, first), (changed, second)))
            early = slice(0, _LENGTH - 1)
            if not bool(torch.isfinite(states).all()):
                kind = str(states.dtype).removeprefix("torch.")
                raise ModelError(
                    f"the backbone's states are not finite in {kind}: they leave its range, or weights are damaged; "
                    "load it in float32 or bfloat16 (precision 'fp32' or 'bf16')"
                )
            pairs = list(zip(first.given, second.given, strict=True)) or [(states, others)]
            for i, (a, b) in enumerate(pairs):  # exact: the same shapes give the same bits where nothing has changed
                verdicts[f"{form}, attention layer {i}"] = not torch.equal(a[early], b[early])
            by_form[form] = states
            frequencies[form] = [b.clone() for key, b in model.named_buffers() if key.endswith("inv_freq")]
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise ModelError(f"the backbone does not run on attention '{name}': {_first_line(error)}") from error
    finally:
        model.train(was_training)
    if len(set(verdicts.values())) != 1:
        where, elsewhere = (next(k for k, v in verdicts.items() if v is wanted) for wanted in (True, False))
        raise ModelError(
            f"on attention '{name}' the backbone reads both ways ({where}) but is causal elsewhere ({elsewhere}); "
            f"load it with attn_implementation='{PACKED}'"
        )
    if any(not torch.equal(a, b) for f in frequencies.values() for a, b in zip(f, frequencies["alone"], strict=True)):
        raise ModelError(
            f"the rotary frequencies of the backbone ({', '.join(_rotary_types(model))}) follow the longest text of a "
            "batch, so a text's states would change with its neighbours; load it with load_pretrained, which settles "
            "longrope and dynamic, or give a checkpoint with another rope_type"
        )
    for form, states in by_form.items():
        if _differ(states, by_form["alone"]):
            raise ModelError(
                f"on attention '{name}' a sequence's states are others {form} than alone: they change with padding "
                "or neighbours; use another attn_implementation"
            )
    return next(iter(verdicts.values())), by_form["alone"]


class _Recorder:
    """What attention layers read and gave for the probed sequence, in the order of their calls."""

    def __init__(self) -> None:
        self.read: list[Tensor] = []
        self.given: list[Tensor] = []


@torch.no_grad()
def _run(model: PreTrainedModel, form: str, ids: list[int], recorder: _Recorder, before: _Recorder) -> Tensor:
    """States ``[_LENGTH, hidden]`` of ``ids`` among the form's other sequences.

    Where ``before`` is another recorder, every attention layer reads the early rows that it recorded: what then differs
    in the layer's early rows came through this layer's attention, not from the layers below.
    """
    left, right = ([[(5 + 3 * i) % 11 for i in range(n)] for n in lengths] for lengths in _AROUND[form])
    sequences = [*left, ids, *right]
    packed = model.config._attn_implementation == PACKED
    start = sum(map(len, left)) if packed else 0
    rows = (0, slice(start, start + _LENGTH))

    def read(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        if before is not recorder:
            hidden = hidden.clone()
            hidden[0, start : start + _LENGTH - 1] = before.read[len(recorder.read)][:-1]
        recorder.read.append(hidden[rows])
        return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})

    def give(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder.given.append((output[0] if isinstance(output, tuple) else output)[rows])

    with _hooked(model, read, give):
        if packed:
            batch = pack([TokenizedSequence(tuple(s), ()) for s in sequences])
            if form == _LONG:
                late = np.arange(batch.tokens) >= start + _LENGTH
                positions = batch.position_ids + late * int(model.config.max_position_embeddings)
                batch = dataclasses.replace(batch, position_ids=positions)
            return packed_states(model, batch)[rows[1]]
        width = max(map(len, sequences))
        inputs = torch.tensor([s + [0] * (width - len(s)) for s in sequences], device=model.device)
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in sequences], device=model.device)
        output = model(input_ids=inputs, attention_mask=None if form == "alone" else mask)
    states: Tensor = output.last_hidden_state[rows]
    return states


def _rotary_types(model: PreTrainedModel) -> list[str]:
    """The ``rope_type`` of all rotary modules."""
    found = [kind for module in model.modules() if (kind := getattr(module, "rope_type", None)) is not None]
    return sorted({str(k) for kind in found for k in (kind.values() if isinstance(kind, dict) else [kind])})


@contextmanager
def _hooked(model: PreTrainedModel, read: Any, give: Any) -> Iterator[None]:
    attentions = [m for m in model.modules() if hasattr(m, "is_causal")]
    hooks = [m.register_forward_pre_hook(read, with_kwargs=True) for m in attentions]
    hooks += [m.register_forward_hook(give) for m in attentions]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _differ(states: Tensor, reference: Tensor) -> bool:
    bound = _LEAK.get(states.dtype, _LEAK_HALF) * float(reference.abs().max())
    return not float((states - reference).abs().max()) <= bound


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
