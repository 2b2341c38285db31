"""Reading sentence-transformers directories: what is refused, and limits, prompts and widths without any library.

What the vectors are is compared with the library in ``tests/runtime/test_modules.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.models.stacks import word_tokenizer

from diffembed.errors import ModelError
from diffembed.models.foreign import read_config, read_tokenizer
from diffembed.models.stack import Stack, read_prompts, read_stack

_TYPE = "sentence_transformers.models."


def _write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".safetensors"):
            save_file(content, file)
        elif isinstance(content, str):
            file.write_text(content)
        else:
            file.write_text(json.dumps(content))
    return folder


def _files(**changes: Any) -> dict[str, Any]:
    """The files of a BERT with CLS pooling and a Dense layer; the tests change single ones."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    dense = {
        "in_features": 8,
        "out_features": 4,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    files = {
        "modules.json": [{"idx": i, "name": str(i), "path": p, "type": _TYPE + k} for i, (p, k) in enumerate(kinds)],
        "config.json": {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 40, "vocab_size": 300,
                        "pad_token_id": 1},
        "model.safetensors": {"embeddings.word_embeddings.weight": np.zeros((300, 8), np.float32)},
        "tokenizer.json": word_tokenizer().to_str(),
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_cls_token": True},
        "2_Dense/config.json": dense,
        "2_Dense/model.safetensors": {"linear.weight": np.zeros((4, 8), np.float32)},
    }  # fmt: skip
    return files | changes


def _modules(*kinds: str) -> list[dict[str, str]]:
    return [{"path": f"{i}_{kind}" if i else "", "type": _TYPE + kind} for i, kind in enumerate(kinds)]


def test_what_a_stack_says(tmp_path: Path) -> None:
    stack = read_stack(_write(tmp_path, _files()))
    assert (stack.kinds, stack.pooling, stack.plain) == (("Transformer", "Pooling", "Dense"), "cls", False)
    assert (stack.width, stack.max_tokens, stack.lowercase) == (4, 32, False)
    config = read_config(tmp_path)
    assert (config.dims, config.pooling, config.prefix_ids, config.suffix_ids) == ((4,), "modules", (0,), (2,))
    assert (config.mask_token_id, config.pad_token_id, config.eot_token_id, config.quantizer) == (4, 1, 2, "none")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"sentence_bert_config.json": {}}, 40),
        ({"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 20}}, 20),
        ({"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 10**30}}, 40),
        ({"sentence_bert_config.json": {"max_seq_length": 100}}, 40),
    ],
)
def test_limits(tmp_path: Path, changes: dict[str, Any], expected: int) -> None:
    assert read_stack(_write(tmp_path, _files(**changes))).max_tokens == expected


def test_positions_of_roberta_begin_after_the_padding_token(tmp_path: Path) -> None:
    config = _files()["config.json"] | {"model_type": "roberta"}
    files = _files(**{"config.json": config, "sentence_bert_config.json": {}})
    assert read_stack(_write(tmp_path, files)).max_tokens == 38


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"prompts": {"query": "q: ", "document": "d: ", "passage": "p: "}}, ("q: ", "d: ")),
        ({"prompts": {"query": "q: ", "document": "", "passage": "p: "}}, ("q: ", "")),
        ({"prompts": {"query": "", "x": "x: "}, "default_prompt_name": "x"}, ("", "")),
        ({"prompts": {"query": None, "document": "d: "}, "default_prompt_name": "document"}, ("", "d: ")),
        ({"prompts": {"query": "q: "}, "default_prompt_name": "query"}, ("q: ", "")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_prompts_are_those_of_the_library(about: dict[str, Any], expected: tuple[str, str], tmp_path: Path) -> None:
    assert read_prompts(about) == expected
    library = pytest.importorskip("sentence_transformers")
    _write(tmp_path, {"modules.json": [], "config_sentence_transformers.json": about})

    class Named(library.SentenceTransformer):  # type: ignore[misc]
        """Says what prompt its own methods choose."""

        def encode(self, *given: Any, prompt: Any = None, prompt_name: Any = None, **rest: Any) -> Any:
            return self._resolve_prompt(prompt, prompt_name) or ""

    model = Named(modules=[torch.nn.Identity()], device="cpu", prompts=None)
    model.prompts = dict(model._default_prompts)  # as on loading
    model._parse_model_config(about)
    model._validate_prompts()
    assert (model.encode_query("a"), model.encode_document("a")) == expected


def test_first_module_in_a_folder_of_its_own(tmp_path: Path) -> None:
    """As versions before 2.0 saved them."""
    old = ("config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json")
    files = {f"0_Transformer/{name}" if name in old else name: content for name, content in _files().items()}
    files["modules.json"] = json.loads(json.dumps(files["modules.json"]))
    files["modules.json"][0]["path"] = "0_Transformer"
    _write(tmp_path, files)
    assert read_stack(tmp_path).first == tmp_path / "0_Transformer"
    assert read_tokenizer(tmp_path).token_to_id("<mask>") == 4


def test_lower_case_is_the_first_step(tmp_path: Path) -> None:
    _write(tmp_path, _files(**{"sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": True}}))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.encode("ÉTÉ Fox").ids == tokenizer.encode("été fox").ids == word_tokenizer().encode("été fox").ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules.json": "["}, "modules.json is not whole JSON"),
        ({"modules.json": {}}, "not a list of modules"),
        ({"modules.json": []}, "lists no modules"),
        ({"modules.json": [{"type": "custom_st.Transformer", "path": ""}]}, "asks for custom_st.Transformer: code"),
        ({"modules.json": _modules("CLIPModel")}, "begins with CLIPModel.*images"),
        ({"modules.json": _modules("Router", "Pooling")}, "begins with Router"),
        ({"modules.json": _modules("Transformer", "Pooling", "CNN")}, "lists CNN, which is not supported"),
        ({"modules.json": _modules("Transformer")}, "has no Pooling"),
        ({"modules.json": [{"type": _TYPE + "Transformer", "path": "../x"}]}, "outside its directory"),
        ({"config.json": {"model_type": "bert", "auto_map": {"AutoModel": "m.M"}}}, "auto_map"),
        ({"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}, "SparseEncoder of sentence-transf"),
        ({"sentence_bert_config.json": {"query_length": 32}}, "query_length = 32"),
        ({"sentence_bert_config.json": {"modality_config": {"message": {}}}}, "modality_config"),
        ({"sentence_bert_config.json": {"transformer_task": "text-generation"}}, "transformer_task"),
        ({"config.json": {"model_type": "bert", "hidden_size": 8, "vocab_size": 300},
          "sentence_bert_config.json": {}}, "does not say how many tokens"),
        ({"1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
          "config_sentence_transformers.json": {"prompts": {"query": "q: "}}}, "leaves prompts out of pooling"),
        ({"config.json": {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 40, "vocab_size": 300,
                          "pad_token_id": 300}}, "padding token 300 lies outside"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _write(tmp_path, _files(**changes))
    with pytest.raises(ModelError, match=message) as caught:
        read_config(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "2_Dense/model.safetensors", "tokenizer.json", "config.json"])
def test_missing_files_are_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path, _files())
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=name.split("/")[0].removesuffix(".safetensors")):
        read_config(tmp_path)
    if name.endswith(".safetensors"):
        (tmp_path / name).with_name("pytorch_model.bin").write_bytes(b"")
        with pytest.raises(ModelError, match="a pickle and is never read"):
            read_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("2_Dense/config.json", {"bias": True}),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ReLU"}),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}),
        ("2_Dense/model.safetensors", 1.5),
        ("1_Pooling/config.json", {"pooling_mode": "max"}),
        ("config.json", {"model_type": "deberta-v2"}),
        ("sentence_bert_config.json", {"config_args": {"is_decoder": True}}),
        ("config_sentence_transformers.json", {"truncate_dim": 4}),
        ("modules.json", _modules("Transformer", "Pooling", "Dense", "Normalize")),
    ],
)
def test_plain_means_nothing_else(tmp_path: Path, name: str, change: Any) -> None:
    dense = {"in_features": 8, "out_features": 8, "bias": False,
             "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
    files = _files(**{
        "2_Dense/config.json": dense,
        "2_Dense/model.safetensors": {"linear.weight": np.eye(8, dtype=np.float16)},
        "1_Pooling/config.json": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": {}},
    })  # fmt: skip
    plain = read_stack(_write(tmp_path / "plain", files))
    assert (plain.plain, plain.quantizer, plain.width) == (True, "tanh-int8", 8)
    if isinstance(change, dict):
        files[name] = files[name] | change
    else:
        files[name] = change if isinstance(change, list) else {"linear.weight": np.eye(8, dtype=np.float16) * change}
    changed: Stack = read_stack(_write(tmp_path / "changed", files))
    assert (changed.plain, changed.quantizer) == (False, "none")
