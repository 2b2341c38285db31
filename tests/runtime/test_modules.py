"""Every sentence-transformers checkpoint in Encoder against the library's own ``encode``: plain ones and stacks."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.stacks import library, stack_dir, transformer_dir, word_tokenizer

from diffembed.encoder import Encoder, TextTooLongError
from diffembed.errors import InputError, MissingExtraError, ModelError
from diffembed.models.stack import ENCODERS
from diffembed.vectors.quantize import unit

pytest.importorskip("sentence_transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the library warns about its own parts


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return transformer_dir(tmp_path_factory.mktemp("backbone") / "bert", "bert")


def same_as_the_library(path: Path, texts: list[str], atol: float = 1e-5) -> Encoder:
    """Queries and documents of one directory by both; returns our encoder."""
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(path), device="cpu", trust_remote_code=False, local_files_only=True)
    encoder = Encoder.load(path)
    documents, queries = encoder.encode_documents(texts, truncate=True), encoder.encode_queries(texts, truncate=True)
    assert np.abs(documents.values - theirs.encode_document(texts, batch_size=2)).max() < atol
    assert np.abs(queries.values - theirs.encode_query(texts, batch_size=3)).max() < atol
    assert documents.dims == theirs.get_embedding_dimension() == documents.values.shape[1]
    spread = np.abs(documents.values[0] - documents.values[1]).max()
    assert spread > 100 * atol  # else nothing was compared
    alone = np.concatenate([encoder.encode_documents([text], truncate=True).values for text in texts])
    assert np.abs(alone - documents.values).max() < atol
    return encoder


@pytest.mark.parametrize("kind", ENCODERS)
def test_mean_pooling_over_a_known_encoder_is_plain(kind: str, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    source = modules.Transformer(str(transformer_dir(tmp_path / "backbone", kind)))
    path = stack_dir(tmp_path / kind, [source, modules.Pooling(32, "mean"), modules.Normalize()])
    encoder = same_as_the_library(path, corpus)
    assert (encoder.runtime.name, encoder.config.pooling, encoder.config.normalize) == ("torch", "mean", True)
    assert (encoder.config.prefix_ids, encoder.config.suffix_ids, encoder.max_tokens) == ((0,), (2,), 60)


@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ["mean", "max"]]
)
def test_poolings(pooling: Any, backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    path = stack_dir(tmp_path / "model", [modules.Transformer(str(backbone)), modules.Pooling(32, pooling)])
    encoder = same_as_the_library(path, corpus)
    assert encoder.config.pooling == ("mean" if pooling == "mean" else "modules")
    assert encoder.dims == (64 if isinstance(pooling, list) else 32,)


def test_dense_layers_prompts_and_lower_case(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    stack = [
        modules.Transformer(str(backbone), max_seq_length=40, do_lower_case=True),
        modules.Pooling(32, "mean"),
        modules.Dense(32, 24),
        modules.Dense(24, 16, bias=False, activation_function=None),
        modules.LayerNorm(16),
        modules.Dropout(0.5),
        modules.Normalize(),
    ]
    prompts = {"query": "Query: ", "document": "A text: "}
    path = stack_dir(tmp_path / "model", stack, prompts=prompts)
    encoder = same_as_the_library(path, corpus)
    assert (encoder.dims, encoder.max_tokens, encoder.config.query_prompt) == ((16,), 40, "Query: ")
    shouted = encoder.encode_queries([corpus[0].upper(), corpus[0].lower()]).values
    assert np.array_equal(shouted[0], shouted[1])
    int8 = encoder.encode_documents(corpus, dtype="int8", truncate=True).values
    exact = encoder.encode_documents(corpus, truncate=True).values
    assert np.abs(np.einsum("ij,ij->i", unit(int8), unit(exact)) - 1).max() < 1e-3
    bits = encoder.encode_documents(corpus, dtype="binary", truncate=True).values
    assert np.array_equal(np.unpackbits(bits, axis=1, bitorder="little"), exact >= 0)


def test_our_own_tanh_layer_is_plain(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    import torch

    modules = library()
    tanh = {"bias": False, "activation_function": torch.nn.Tanh()}
    for name, weight in (("ours", torch.eye(32)), ("theirs", torch.eye(32) * 2)):
        dense = modules.Dense(32, 32, init_weight=weight, **tanh)
        stack = [modules.Transformer(str(backbone)), modules.Pooling(32, "mean"), dense]
        encoder = same_as_the_library(stack_dir(tmp_path / name, stack), corpus)
        expected = ("mean", "tanh-int8") if name == "ours" else ("modules", "none")
        assert (encoder.config.pooling, encoder.config.quantizer) == expected


def test_cut_width(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    stack = [modules.Transformer(str(backbone)), modules.Pooling(32, "mean"), modules.Normalize()]
    encoder = same_as_the_library(stack_dir(tmp_path / "model", stack, truncate_dim=8), corpus)
    assert (encoder.dims, encoder.config.pooling) == ((8,), "modules")


def test_causal_decoder_with_left_padding(tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    decoder = modules.Transformer(str(transformer_dir(tmp_path / "backbone", "qwen3")))
    for pooling in ("lasttoken", "mean"):  # mean pooling over a causal decoder must not open its mask
        stack = [decoder, modules.Pooling(32, pooling), modules.Normalize()]
        encoder = same_as_the_library(stack_dir(tmp_path / pooling, stack), corpus)
        assert encoder.runtime.name == "modules"


def test_open_decoder_is_plain(tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    decoder = modules.Transformer(str(transformer_dir(tmp_path / "backbone", "qwen3", is_causal=False)))
    encoder = same_as_the_library(stack_dir(tmp_path / "model", [decoder, modules.Pooling(32, "mean")]), corpus)
    assert (encoder.runtime.name, encoder.config.pooling) == ("torch", "mean")


def test_half_an_encoder_decoder(tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    encoder_only = modules.Transformer(str(transformer_dir(tmp_path / "backbone", "t5")))
    stack = [encoder_only, modules.Pooling(32, "mean"), modules.Dense(32, 16, activation_function=None)]
    assert same_as_the_library(stack_dir(tmp_path / "model", stack), corpus).dims == (16,)


def test_adapter_inside_a_stack(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    """Saved by the library after ``add_adapter``: the transformer's folder holds an adapter, its base is elsewhere."""
    import torch
    from sentence_transformers import SentenceTransformer

    peft = pytest.importorskip("peft")
    modules = library()
    model = SentenceTransformer(modules=[modules.Transformer(str(backbone)), modules.Pooling(32, "mean")], device="cpu")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save(str(tmp_path / "model"), create_model_card=False)
    assert (tmp_path / "model" / "adapter_config.json").exists()
    encoder = same_as_the_library(tmp_path / "model", corpus)
    assert (encoder.runtime.name, encoder.max_tokens) == ("modules", 60)


def test_static_vectors(tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    table = np.random.default_rng(0).normal(size=(word_tokenizer().get_vocab_size(), 16)).astype(np.float32)
    stack = [modules.StaticEmbedding(word_tokenizer(), embedding_weights=table), modules.Normalize()]
    encoder = same_as_the_library(stack_dir(tmp_path / "model", stack), corpus)
    assert (encoder.dims, encoder.config.prefix_ids) == ((16,), ())
    chunks = encoder.encode_chunks([corpus[:2], corpus[2:]])
    assert np.abs(chunks.values - encoder.encode_documents(corpus).values).max() < 1e-5
    assert encoder.encode_documents([" ".join(corpus) * 200]).values.shape == (1, 16)


def test_chunks_are_pooled_after_reading_their_document(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    """The library's own token states, cut at the chunks and pooled by hand."""
    from sentence_transformers import SentenceTransformer

    modules = library()
    texts = ["one two three", "the dog", "a cat reads"]
    ids = [word_tokenizer().encode(text, add_special_tokens=False).ids for text in texts]
    for pooling in ("max", "weightedmean"):
        stack = [modules.Transformer(str(backbone)), modules.Pooling(32, pooling), modules.Dense(32, 8)]
        path = stack_dir(tmp_path / pooling, stack)
        found = Encoder.load(path).encode_chunks([texts]).values
        theirs = SentenceTransformer(str(path), device="cpu")
        import torch

        with torch.no_grad():
            row = torch.tensor([[0, *ids[0], 2, *ids[1], 2, *ids[2], 2]])
            states = theirs[0].model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state[0]
            spans = [(0, 1 + len(ids[0])), (2 + len(ids[0]), 2 + len(ids[0]) + len(ids[1]))]
            spans.append((spans[1][1] + 1, row.shape[1]))
            for vector, (start, end) in zip(found, spans, strict=True):
                weights = torch.arange(1, end - start + 1)[:, None]
                part = states[start:end]
                pooled = part.max(0).values if pooling == "max" else (part * weights).sum(0) / weights.sum()
                expected = theirs[2]({"sentence_embedding": pooled[None]})["sentence_embedding"][0].numpy()
                assert np.abs(vector - expected).max() < 1e-5


def test_first_token_pooling_has_no_chunks(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    encoder = Encoder.load(stack_dir(tmp_path / "m", [modules.Transformer(str(backbone)), modules.Pooling(32, "cls")]))
    with pytest.raises(InputError, match=r"pools a text's first token \(cls\)"):
        encoder.encode_chunks([corpus[:2]])
    with pytest.raises(TextTooLongError, match="ask for truncate \\(its pooling gives no vector of pieces\\)"):
        encoder.encode_documents([" ".join(corpus)], windows=True)  # nothing is averaged that was pooled otherwise
    assert len(encoder.encode_tokens(corpus[:1])) == encoder.count_tokens(corpus[:1])[0] - 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_precisions(precision: Any, backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    modules = library()
    stack = [modules.Transformer(str(backbone)), modules.Pooling(32, "cls"), modules.Dense(32, 16)]
    path = stack_dir(tmp_path / "model", stack)
    exact, rough = Encoder.load(path), Encoder.load(path, precision=precision)
    assert rough.runtime.precision == precision
    a, b = (encoder.encode_documents(corpus).values for encoder in (exact, rough))
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < (0.05 if precision == "bf16" else 0.01)


def test_real_minilm_without_export(minilm_source: Path, corpus: list[str]) -> None:
    encoder = same_as_the_library(minilm_source, corpus)
    assert (encoder.runtime.name, encoder.dims, encoder.max_tokens) == ("torch", (384,), 256)


def test_what_the_library_reads_otherwise_is_refused(backbone: Path, tmp_path: Path) -> None:
    modules = library()
    path = stack_dir(tmp_path / "model", [modules.Transformer(str(backbone)), modules.Pooling(32, "cls")])
    other = word_tokenizer(framed=False)
    other.add_tokens(["Words"])
    encoder = Encoder.load(path)
    (path / "tokenizer.json").write_text(other.to_str())
    import diffembed.runtime.modules as module

    with pytest.raises(ModelError, match=r"sentence-transformers reads 'Two Words' as \[0, .* Encoder as"):
        module._require_same_tokens(_library_of(encoder), path, encoder.config)


def _library_of(encoder: Encoder) -> Any:
    """The loaded SentenceTransformer again, from the modules that the runtime holds."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=encoder.runtime._modules, device="cpu")  # type: ignore[attr-defined]


def test_without_the_library(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: list[str]
) -> None:
    modules = library()
    source = modules.Transformer(str(backbone))
    plain = stack_dir(tmp_path / "plain", [source, modules.Pooling(32, "mean")])
    stack = stack_dir(tmp_path / "stack", [source, modules.Pooling(32, "max")])
    real = builtins.__import__

    def blocked(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == "sentence_transformers":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(MissingExtraError, match=r"pip install 'diffembed\[eval\]'"):
        Encoder.load(stack)
    assert len(Encoder.load(plain).encode_documents(corpus)) == len(corpus)


def test_onnx_is_for_plain_ones_after_an_export(backbone: Path, tmp_path: Path, corpus: list[str]) -> None:
    from diffembed.models.export import export_onnx

    modules = library()
    source = modules.Transformer(str(backbone), max_seq_length=50, do_lower_case=True)
    plain = stack_dir(tmp_path / "p", [source, modules.Pooling(32, "mean")], prompts={"query": "q: ", "document": ""})
    stack = stack_dir(tmp_path / "stack", [source, modules.Pooling(32, "max")])
    with pytest.raises(ModelError, match="diffembed export"):
        Encoder.load(plain, runtime="onnx")
    for action in (lambda: Encoder.load(stack, runtime="onnx"), lambda: export_onnx(stack, tmp_path / "x")):
        with pytest.raises(ModelError, match="stack of sentence-transformers modules"):
            action()
    export_onnx(plain, tmp_path / "exported", precisions=("fp32",))
    exported = Encoder.load(tmp_path / "exported", precision="fp32")
    assert (exported.runtime.name, exported.max_tokens, exported.config.query_prompt) == ("onnx", 50, "q: ")
    ours = exported.encode_queries(corpus).values
    assert np.abs(ours - Encoder.load(plain).encode_queries(corpus).values).max() < 1e-5
    about = json.loads((tmp_path / "exported" / "config_sentence_transformers.json").read_text())
    assert about["prompts"]["query"] == "q: "
