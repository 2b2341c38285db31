"""Exported directories as a user meets them: ``Encoder`` on ONNX against torch, and against sentence-transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest

from diffembed.encoder import Encoder
from diffembed.errors import InputError, ModelError
from diffembed.models.checkpoint import read_model_config
from diffembed.models.export import Int8Options, export_onnx
from diffembed.models.integers import Int8Report
from diffembed.vectors.quantize import unit


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", unit(a), unit(b))


def test_fp32_graph_equals_torch(tiny_model_dir: Path, corpus: list[str]) -> None:
    theirs = Encoder.load(tiny_model_dir, runtime="torch").encode_documents(corpus).values
    ours = Encoder.load(tiny_model_dir, precision="fp32").encode_documents(corpus).values
    assert np.abs(ours - theirs).max() < 1e-5


def test_fp32_graph_equals_torch_on_chunks(tiny_model_dir: Path, corpus: list[str]) -> None:
    documents = [corpus[:3], corpus[3:4], corpus[4:]]
    theirs = Encoder.load(tiny_model_dir, runtime="torch").encode_chunks(documents).values
    ours = Encoder.load(tiny_model_dir, precision="fp32").encode_chunks(documents).values
    assert np.abs(ours - theirs).max() < 1e-5


def test_int8_weights_stay_close(tiny_model_dir: Path, corpus: list[str]) -> None:
    exact = Encoder.load(tiny_model_dir, runtime="torch").encode_documents(corpus).values
    quantized = Encoder.load(tiny_model_dir, precision="int8").encode_documents(corpus).values
    assert cosines(exact, quantized).mean() > 0.999


def test_int8_weights_do_not_make_a_text_depend_on_its_batch(tiny_model_dir: Path, corpus: list[str]) -> None:
    encoder = Encoder.load(tiny_model_dir, precision="int8")
    together = encoder.encode_documents(corpus).values
    alone = np.concatenate([encoder.encode_documents([text]).values for text in corpus])
    assert np.abs(together - alone).max() < 1e-4


def test_token_table_is_stored_once(tiny_model_dir: Path) -> None:
    table = 400 * 64 * 2
    assert (tiny_model_dir / "onnx" / "model_int8.onnx").stat().st_size < 2 * 64_000 + table
    assert b"../model.safetensors" in (tiny_model_dir / "onnx" / "model_int8.onnx").read_bytes()


def test_export_into_another_directory(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    export_onnx(tiny_model_dir, tmp_path / "other")
    assert not (tmp_path / "other" / "onnx" / "model.onnx").exists()
    a, b = (Encoder.load(p).encode_documents(corpus, dtype="int8").values for p in (tiny_model_dir, tmp_path / "other"))
    assert np.array_equal(a, b)


def test_bfloat16_and_prefixed_weights(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "bf16"))
    tensors = {"model." + k: v.to(torch.bfloat16) for k, v in load_file(path / "model.safetensors").items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    export_onnx(path, path, precisions=("fp32",))
    theirs = Encoder.load(path, runtime="torch").encode_documents(corpus).values
    assert np.abs(Encoder.load(path, precision="fp32").encode_documents(corpus).values - theirs).max() < 1e-4


def test_the_graph_says_what_integers_cost(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    told: list[Int8Report] = []
    chosen = Int8Options(texts=corpus, keep_float=["layers.1.*"])
    export_onnx(path, precisions=("fp32", "int8"), int8=chosen, report=told.append)
    metadata = {
        p.key: p.value for p in onnx.load(path / "onnx" / "model_int8.onnx", load_external_data=False).metadata_props
    }
    assert json.loads(metadata["int8"]) == json.loads(json.dumps(asdict(told[0])))
    assert (told[0].texts, len(told[0].float_layers)) == (len(corpus), 7)
    exact, int8 = (Encoder.load(path, precision=p).encode_documents(corpus).values for p in ("fp32", "int8"))
    assert cosines(exact, int8).mean() == pytest.approx(told[0].cosine_mean, abs=1e-5)


def test_vectors_are_the_same_bytes_on_every_call(tiny_model_dir: Path, corpus: list[str]) -> None:
    """A long text: its tokens are shared out among threads."""
    texts = [" ".join(corpus)[:400], *corpus]
    for precision in ("fp32", "int8"):
        encoder = Encoder.load(tiny_model_dir, precision=precision, threads=4)  # type: ignore[arg-type]
        first = encoder.encode_documents(texts, truncate=True).values
        for _ in range(10):
            assert np.array_equal(encoder.encode_documents(texts, truncate=True).values, first)


def test_unknown_precision_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(InputError, match="int8, fp32"):
        export_onnx(tiny_model_dir, precisions=("int4",))  # type: ignore[arg-type]


def test_settings_of_integers_want_an_int8_graph(tiny_model_dir: Path, tmp_path: Path, corpus: list[str]) -> None:
    for settings in (Int8Options(texts=corpus), Int8Options(keep_float=["*"]), Int8Options(min_cosine=0.9)):
        with pytest.raises(InputError, match="add precision int8"):
            export_onnx(tiny_model_dir, tmp_path / "out", precisions=("fp32",), int8=settings)


@pytest.mark.parametrize("into", ["model/inside", "."])
def test_neither_directory_may_lie_within_the_other(tiny_model_dir: Path, tmp_path: Path, into: str) -> None:
    """Into its parent, the model would take the place of all that stands beside it."""
    source = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="lie within each other"):
        export_onnx(source, tmp_path / into)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_model_gives_the_same_files(tiny_model_dir: Path, tmp_path: Path) -> None:
    made = [export_onnx(tiny_model_dir, tmp_path / name, precisions=("fp32", "int8")) for name in "ab"]
    for file in ("onnx/model.onnx", "onnx/model_int8.onnx"):
        assert (made[0] / file).read_bytes() == (made[1] / file).read_bytes()


def test_sentence_transformers_directory_is_understood(minilm_dir: Path) -> None:
    config = read_model_config(minilm_dir)
    assert (config.prefix_ids, config.suffix_ids, config.pad_token_id) == ((101,), (102,), 0)
    assert (config.dims, config.max_tokens, config.quantizer, config.normalize) == ((384,), 256, "none", True)


@pytest.mark.filterwarnings("ignore")  # the import of sentence-transformers warns about its own parts
def test_minilm_equals_sentence_transformers(minilm_source: Path, minilm_dir: Path, corpus: list[str]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = [*corpus, " ".join(corpus * 6)]  # the last is over 256 tokens
    theirs = sentence_transformers.SentenceTransformer(str(minilm_source), device="cpu").encode(texts)
    ours = Encoder.load(minilm_dir, precision="fp32").encode_documents(texts, truncate=True)
    assert ours.truncated == (len(texts) - 1,)
    assert np.abs(ours.values - theirs).max() < 1e-5
    torch_values = Encoder.load(minilm_dir, runtime="torch").encode_documents(texts, truncate=True).values
    assert np.abs(torch_values - theirs).max() < 1e-4
    assert cosines(Encoder.load(minilm_dir).encode_documents(texts, truncate=True).values, theirs).mean() > 0.998


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", None, "modules.json is missing"),
        ("modules.json", "[", "not whole JSON"),
        ("modules.json", json.dumps([{"type": "a.Transformer"}, {"type": "a.WordWeights"}]), "asks for a.Transformer"),
        ("1_Pooling/config.json", json.dumps({"pooling_mode_cls_token": True}), "a stack of sentence-transf"),
        ("config.json", json.dumps({"model_type": "bert", "auto_map": {}}), "auto_map"),
    ],
)
def test_unusable_sentence_transformers_directory(
    minilm_source: Path, tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("modules.json", "config.json", "tokenizer.json", "sentence_bert_config.json"):
        shutil.copyfile(minilm_source / name, source / name)
    (source / "model.safetensors").symlink_to(minilm_source / "model.safetensors")
    (source / "1_Pooling").mkdir()
    shutil.copyfile(minilm_source / "1_Pooling" / "config.json", source / "1_Pooling" / "config.json")
    (source / file).unlink()
    if content is not None:
        (source / file).write_text(content)
    with pytest.raises(ModelError, match=message):
        export_onnx(source, tmp_path / "into")
    assert not (tmp_path / "into").exists()
