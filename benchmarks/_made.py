"""Models that benchmarks/encode.py and benchmarks/export.py make for a run.

    python benchmarks/_made.py stock SOURCE FOLDER MAX_TOKENS   a BERT's ONNX files as onnxruntime's tools make them
    python benchmarks/_made.py qwen FOLDER LAYERS               random weights of Qwen3-0.6B, an int8 graph

Each prints a line of JSON. In a process of its own, because torch's exporter leaves much behind.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

QWEN3_06B: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
    "is_causal": False,
}
QWEN_TOKENS = 512


def main() -> None:
    command, *arguments = sys.argv[1:]
    known: dict[str, Callable[..., Any]] = {made.__name__: made for made in (stock, qwen)}
    print(json.dumps(known[command](*arguments)))


def stock(source: str, into: str, max_tokens: str) -> dict[str, Any]:
    """Files of a BERT: ``plain.onnx``, fused ``model.onnx``, ``int8.onnx``, and the tokenizer as fastembed wants it."""
    import onnx
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModel

    folder = Path(into)
    folder.mkdir(parents=True)
    model = AutoModel.from_pretrained(source, attn_implementation="eager", dtype=torch.float32).eval()

    class States(torch.nn.ModuleList):  # the exporter gives arguments by position, which a BertModel does not take
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self[0](input_ids=ids, attention_mask=mask).last_hidden_state
            return states

    names = ["input_ids", "attention_mask"]
    torch.onnx.export(
        States([model]),
        (torch.ones(2, 8, dtype=torch.int64),) * 2,
        str(folder / "plain.onnx"),
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]},
        opset_version=17,
        dynamo=False,
    )
    shape = {"num_heads": model.config.num_attention_heads, "hidden_size": model.config.hidden_size}
    fused = optimize_model(str(folder / "plain.onnx"), model_type="bert", **shape)
    fused.save_model_to_file(str(folder / "model.onnx"))
    kinds = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # shape inference does not see through the fused operators
    quantize_dynamic(folder / "model.onnx", folder / "int8.onnx", per_channel=True, extra_options=kinds)
    for name in ("tokenizer.json", "config.json", "special_tokens_map.json"):
        shutil.copyfile(Path(source) / name, folder / name)
    config = json.loads((Path(source) / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": int(max_tokens)}))
    return {"fused": {name: int(count) for name, count in fused.get_fused_operator_statistics().items() if count}}


def qwen(into: str, layers: str) -> dict[str, str]:
    """A Qwen3 of the 0.6B shape with random weights, the vocabulary of the embedded model, and an int8 graph.

    Returns ``{"int8": ""}``, or why there is no graph.
    """
    import torch
    from transformers import Qwen3Config, Qwen3Model

    from diffembed.encoder import BUNDLED
    from diffembed.errors import DiffembedError
    from diffembed.models.checkpoint import ModelConfig, load_tokenizer, save_model
    from diffembed.models.export import Int8Options, export_onnx

    tokenizer = load_tokenizer(BUNDLED)
    torch.manual_seed(0)
    shape = QWEN3_06B | {"vocab_size": tokenizer.get_vocab_size(), "num_hidden_layers": int(layers)}
    stock_config = Qwen3Config(**shape, pad_token_id=0, bos_token_id=None, eos_token_id=1)
    config = ModelConfig("qwen3-shape", (1024,), QWEN_TOKENS, None, pad_token_id=0, eot_token_id=1, quantizer="none")
    save_model(into, Qwen3Model(stock_config), tokenizer, config, dtype="float16")
    try:
        # Calibrating a model of this size takes minutes, and random weights gain nothing by it: one text is enough.
        export_onnx(into, precisions=("int8",), int8=Int8Options(texts=["any text of a few words"]))
    except DiffembedError as error:
        return {"int8": str(error)}
    return {"int8": ""}


if __name__ == "__main__":
    main()
