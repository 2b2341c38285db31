"""How much memory a training step takes, from shapes alone: formulas, each compared with a measured step in the tests.

All sizes are bytes of one process. Weights, gradients and AdamW's two moments are float32 (``machine.py``). Passes
compute in bfloat16 under autocast, which makes copies of the matrices it multiplies with; the stream between the layers
and the norms stay float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from diffembed.models.embedder import Embedder
from diffembed.objectives.cross_entropy import rows_of_a_chunk
from diffembed.training.configs import CONTRASTIVE, StageConfig
from diffembed.training.estimate_tables import Gpu
from diffembed.training.grad_cache import BLOCK_ELEMENTS

_FLOAT = 4  # bytes of float32
_FROM_WITHIN = ("o_proj", "down_proj")  # they read what attention and the gated product keep anyway
_MOST_GPUS = 4096


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process holds at the peak of a step, in bytes.

    Attributes:
        weights: all of them, float32.
        gradients, moments: of the weights that learn, 4 and 8 bytes each.
        casts: bfloat16 copies of matrices: all that learn (autocast keeps them) and those that a backward pass needs;
            of frozen ones under gradient checkpointing a layer's.
        activations: of the passes whose backward pass is still to come (``activation_bytes``).
        loss: logits and the output matrix's gradient (and the frozen parent that states are aligned to), or the vectors
            of a step and their similarities.
        gathered: under FSDP2, in place of ``casts``: whole matrices of the root group and two layers, and the
            gradient of the largest group on its way to the shards.
    """

    weights: float = 0.0
    gradients: float = 0.0
    moments: float = 0.0
    casts: float = 0.0
    activations: float = 0.0
    loss: float = 0.0
    gathered: float = 0.0

    @property
    def ddp(self) -> float:
        """Bytes a process needs that holds a whole model."""
        return self.weights + self.gradients + self.moments + self.casts + self.activations + self.loss

    def fsdp2(self, processes: int) -> float:
        """Bytes a process needs where ``processes`` share weights, gradients and moments.

        >>> Memory(weights=8.0, gradients=8.0, moments=16.0, casts=4.0, activations=5.0, gathered=3.0).fsdp2(4)
        16.0
        """
        return (self.weights + self.gradients + self.moments) / processes + self.gathered + self.activations + self.loss

    def gpus(self, gpu: Gpu) -> int | None:
        """How many of an accelerator FSDP2 needs for the memory; ``None``: no number is enough."""
        room = gpu.budget - (self.gathered + self.activations + self.loss)
        if room <= 0:
            return None
        needed = max(1, math.ceil((self.weights + self.gradients + self.moments) / room))
        return needed if needed <= _MOST_GPUS else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, the sum under DDP included."""
        return asdict(self) | {"ddp": self.ddp}


def stage_memory(
    embedder: Embedder,
    stage: StageConfig,
    *,
    tokens: int,
    half: bool,
    queries: int = 0,
    spans: int = 0,
    widths: Sequence[int] = (),
) -> Memory:
    """The memory of a stage.

    Args:
        embedder: as the stage trains it, adapters included; shapes are enough.
        tokens: whose activations are held at once.
        half: compute in bfloat16.
        queries, spans, widths: of a contrastive step: Q, all vectors S, and Matryoshka widths.
    """
    item = 2 if half else 4
    backbone, learning = embedder.backbone, sum(p.numel() for p in learned(embedder, stage))
    layers = [_elements(layer) for layer in decoder_layers(backbone)]
    table, head = embedder.output_table(), 0 if embedder.head is None else embedder.head.numel()
    everything = sum(p.numel() for p in embedder.parameters())
    lookup = backbone.get_input_embeddings().weight
    frozen_layers = not any(p.requires_grad for name, p in backbone.named_parameters() if "lora_" not in name)
    casts = 0.0
    if half:
        casts = item * float(max(layers) if frozen_layers and stage.gradient_checkpointing else sum(layers))
    root = everything - sum(layers)
    largest = max(max(layers), root if lookup.requires_grad or (head and table.requires_grad) else 0)
    gathered = item * (root + 2 * max(layers)) + (item + _FLOAT * half) * (0 if frozen_layers else largest)
    if stage.kind in CONTRASTIVE:
        loss = vector_bytes(queries, spans, int(backbone.config.hidden_size), widths)
    else:
        loss = logit_bytes(tokens, *table.shape, half=half, learns=table.requires_grad)
        loss += _FLOAT * (everything - head) * bool(stage.alignment_weight)
    return Memory(
        weights=_FLOAT * float(everything),
        gradients=_FLOAT * float(learning),
        moments=2 * _FLOAT * float(learning),
        casts=casts,
        activations=activation_bytes(embedder, stage, tokens=tokens, half=half),
        loss=loss,
        gathered=float(gathered),
    )


def learned(embedder: Embedder, stage: StageConfig) -> list[nn.Parameter]:
    """The parameters that a stage changes: an output matrix of its own gets no gradient from vectors."""
    unused = embedder.head if stage.kind in CONTRASTIVE else None
    return [p for p in embedder.parameters() if p.requires_grad and p is not unused]


def activation_bytes(embedder: Embedder, stage: StageConfig, *, tokens: int, half: bool) -> float:
    """What backward passes over ``tokens`` will read, weights not counted. A token takes in every layer, with b bytes a
    value that is computed (2 in bfloat16, else 4), d values in the stream, q and k of all query and key heads, f inside
    the gated product:

    - each norm of w values: 4 w for what it reads, and where its weight learns 4 w for what it scales (norms of
      queries and keys: b w);
    - each linear layer that learns and reads the stream: b d, in float32 once for those that share it;
    - attention: b (2 q + 2 k) for queries, keys, values and what it gives, and 4 bytes a head;
    - the gated product: 3 b f, and b f where the matrix after it learns;
    - each adapter: b (what it reads + rank), and a byte a value that dropout chose from.

    Outside the layers: 4 d for the stream before the final norm and 4 d for what it scales, and for the gradients on
    their way back through one layer 3 b f + 8 d. With ``gradient_checkpointing`` a layer keeps 4 d, its input, and only
    one layer at a time all of the above. Alignment to a parent keeps three more streams a layer: both models' states,
    and theirs made to length 1.
    """
    config, item = embedder.backbone.config, 2 if half else 4
    stream = _FLOAT * int(config.hidden_size)
    layers = [_layer_bytes(layer, config, item) for layer in decoder_layers(embedder.backbone)]
    held = len(layers) * stream + max(layers) if stage.gradient_checkpointing else sum(layers)
    aligned = 3 * len(layers) * stream if stage.alignment_weight else 0
    back = 3 * item * int(config.intermediate_size) + 2 * stream
    return float(tokens * (held + 2 * stream + back + aligned))


def _layer_bytes(layer: nn.Module, config: Any, item: int) -> float:
    """Bytes a token in one decoder layer, as ``activation_bytes`` says."""
    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    width = int(getattr(config, "head_dim", None) or hidden // heads)
    queries, keys = heads * width, int(config.num_key_value_heads) * width
    inner = int(config.intermediate_size)
    total = float(item * (2 * queries + 2 * keys + 3 * inner) + _FLOAT * heads)
    shared: set[tuple[str, int]] = set()
    for name, module in layer.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        path, _, own = name.rpartition(".")
        if weight.ndim == 1:
            values = {"q_norm": queries, "k_norm": keys}.get(own, hidden)
            kept = item if own in ("q_norm", "k_norm") else _FLOAT
            total += values * (_FLOAT + kept * weight.requires_grad)
        elif isinstance(module, nn.Linear) and weight.requires_grad:
            if own == "down_proj":
                total += item * inner
            if own in _FROM_WITHIN or (item == _FLOAT and (path, module.in_features) in shared):
                continue
            shared.add((path, module.in_features))
            total += item * module.in_features
        if dropped := getattr(module, "lora_dropout", None):
            chosen = any(getattr(d, "p", 0.0) > 0 for d in dropped.values())
            total += chosen * int(module.in_features)
    return total


def decoder_layers(backbone: nn.Module) -> list[nn.Module]:
    """The layers of a decoder: its longest list of modules, whatever the family calls it."""
    return max((list(m) for m in backbone.modules() if isinstance(m, nn.ModuleList)), key=len)


def _elements(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def logit_bytes(tokens: int, vocabulary: int, hidden: int, *, half: bool, learns: bool) -> float:
    """A pass that predicts all of its tokens (``linear_cross_entropy``): their states and gradients, one chunk of
    logits with its float32 scores, and of the output matrix its gradient in float32 and, in bfloat16, a copy and a
    product.

    >>> logit_bytes(4, 1000, 8, half=False, learns=False)  # 2 x 4 x 8 states, 1024 x 1000 logits
    4096256.0
    """
    rows = rows_of_a_chunk(vocabulary, "cuda")
    table, states = vocabulary * hidden, 2 * tokens * hidden * _FLOAT
    logits = rows * vocabulary * (_FLOAT + 2 * half)
    matrix = table * ((_FLOAT + 2 * half) * learns + 2 * half)
    return float(states + logits + matrix)


def vector_bytes(queries: int, spans: int, hidden: int, widths: Sequence[int]) -> float:
    """The vectors that a contrastive step holds (GradCache) and the loss over them, on one process.

    Means, means of all processes, and the gradients of both: 4 float32 vectors a span; at every width w the rounded
    vector, its tanh and its unit vector: 3 x 4 w bytes; a block of at most ``grad_cache.BLOCK_ELEMENTS`` similarities,
    6 bytes each at every width and 13 besides: 12 on the way back and one for who answers whom.

    >>> vector_bytes(queries=2, spans=4, hidden=8, widths=[8]) == 4 * 4 * (4 * 8 + 3 * 8) + 8 * (6 + 13)
    True
    """
    block = min(queries * spans, BLOCK_ELEMENTS)
    vectors = spans * _FLOAT * (4 * hidden + 3 * sum(widths))
    return float(vectors + block * (6 * len(widths) + 13))
