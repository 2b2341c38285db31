"""Stacks of sentence-transformers modules, run by that library: other pooling than the mean, dense layers, any
architecture of ``transformers``.

Token ids go in, as everywhere here: tokenizing, sorting, batching and limits stay the Encoder's. What comes out of the
last module is the vector, so nothing but the width is left to finish. A text that is one span runs exactly as in
``SentenceTransformer.encode``. Spans inside a sequence (chunks, tokens) are cut out of the token states before the
pooling module, which then pools each as if it were a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.models.checkpoint import ModelConfig
from diffembed.models.foreign import find_source, read_tokenizer
from diffembed.runtime.onnx import padded_inputs
from diffembed.runtime.torch import settle_torch
from diffembed.text.batching import PackedBatch
from diffembed.vectors.quantize import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

_HINT = "this model's pooling and layers are run by sentence-transformers; add it with: pip install 'diffembed[eval]'"
_PROBES = ("Two Words", "Été à 東京, 3 × 2 — naïve?", "inner  spaces,\ttabs\nand lines")


class ModulesRuntime:
    """The library's own modules over packed batches.

    Args:
        root: a sentence-transformers directory.
        config: what ``read_config`` made of it.
        precision: ``fp32``, ``bf16``, ``fp16``; ``auto`` is fp32.
        device: ``cpu``, ``cuda``, or ``auto`` for a CUDA GPU if there is one.
        threads: CPU threads of torch, for the whole process; ``None`` leaves them.

    Raises:
        ModelError: the library does not load the directory; its tokenizer reads text otherwise than ours.
        InputError: a device that is not there, a precision that is not known.
        MissingExtraError: torch or sentence-transformers is not installed.
    """

    name = "modules"

    def __init__(
        self,
        root: Path,
        config: ModelConfig,
        *,
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.precision, dtype, self.device = settle_torch(precision, device, threads)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError(_HINT) from None
        from diffembed.models.weights import quiet

        stack = find_source(root).stack
        assert stack is not None
        self._pooling, self._static = stack.pooling, stack.static
        try:
            with quiet():
                model = SentenceTransformer(
                    str(root),
                    device=self.device,
                    trust_remote_code=False,
                    local_files_only=True,
                    model_kwargs={"dtype": dtype, "use_safetensors": True},
                )
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelError(f"sentence-transformers does not load {root}: {first}") from error
        self._modules = list(model.to(dtype).eval())
        self._pad, self._width = config.pad_token_id, config.dims[-1]
        _require_same_tokens(model, root, config)
        pooling = [i for i, kind in enumerate(stack.kinds) if kind == "Pooling"]
        self._pool_at = pooling[0] if pooling else len(stack.kinds)

    def span_means(self, batch: PackedBatch) -> FloatArray:
        """``[spans, width]`` float32: what the last module gives for every span."""
        import torch

        with torch.inference_mode():
            features = self._static_features(batch) if self._static else self._padded_features(batch)
            for number, module in enumerate(self._modules):
                if number == self._pool_at and not _whole(batch):
                    features = self._cut_out(features, batch)
                features = module(features)
            vectors: Tensor = features["sentence_embedding"]
            values: FloatArray = vectors[:, : self._width].float().cpu().numpy()
        return np.ascontiguousarray(values)

    def _padded_features(self, batch: PackedBatch) -> dict[str, Any]:
        import torch

        inputs = padded_inputs(batch, self._pad)
        names = ("input_ids", "attention_mask")
        return {name: torch.from_numpy(inputs[name]).to(self.device) for name in names}

    def _static_features(self, batch: PackedBatch) -> dict[str, Any]:
        """Bags of token ids, one a span."""
        import torch

        ids = [batch.token_ids[start:end] for start, end in batch.spans]
        offsets = np.concatenate([[0], np.cumsum([len(i) for i in ids])])[:-1]
        arrays = {"input_ids": np.concatenate(ids), "offsets": offsets.astype(np.int64)}
        return {name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()}

    def _cut_out(self, features: dict[str, Any], batch: PackedBatch) -> dict[str, Any]:
        """The states of every span as a row of its own, padded."""
        import torch

        starts = batch.cu_seqlens[np.searchsorted(batch.cu_seqlens, batch.spans[:, 0], side="right") - 1]
        lengths = batch.spans[:, 1] - batch.spans[:, 0]
        if "cls" in self._pooling.split("+") and bool(((batch.spans[:, 0] > starts) & (lengths > 1)).any()):
            raise InputError(
                f"this model pools a text's first token ({self._pooling}), so it has no vector of a chunk inside a "
                "document: encode chunks as documents of their own"
            )
        states = features["token_embeddings"]
        packed = states[features["attention_mask"].bool()]  # the padded rows of a sequence stand last
        columns = np.arange(int(lengths.max()))[None, :]
        rows = batch.spans[:, :1] + np.minimum(columns, lengths[:, None] - 1)
        mask = torch.from_numpy((columns < lengths[:, None]).astype(np.int64)).to(self.device)
        return {"token_embeddings": packed[torch.from_numpy(rows).to(self.device)], "attention_mask": mask}


def _whole(batch: PackedBatch) -> bool:
    """Every sequence is one span."""
    return len(batch.spans) == len(batch) and bool(
        (batch.spans[:, 0] == batch.cu_seqlens[:-1]).all() and (batch.spans[:, 1] == batch.cu_seqlens[1:]).all()
    )


def _require_same_tokens(model: Any, root: Path, config: ModelConfig) -> None:
    """Refuse a model whose texts the library reads as other ids, or with further inputs, than the Encoder does."""
    tokenizer = read_tokenizer(root)
    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    for text in _PROBES:
        features = read([text])
        inner = tokenizer.encode(text, add_special_tokens=False).ids
        ours = [*config.prefix_ids, *inner, *config.suffix_ids]
        theirs = features["input_ids"].flatten().tolist()
        if ours != theirs:
            raise ModelError(
                f"{root}: sentence-transformers reads {text!r} as {theirs}, Encoder as {ours}; not supported"
            )
        segments = features.get("token_type_ids")
        if segments is not None and bool(segments.any()):
            raise ModelError(f"{root} numbers the segments of a text (token_type_ids), which is not supported")
