"""Model directories of every layout: which is which, the config made in memory, tokenizer and fingerprint."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.models.released_files import LLADA, SIZES, llada, pplx, write_checkpoint
from tests.models.stacks import library, stack_dir, transformer_dir

from diffembed.encoder import Encoder
from diffembed.errors import ModelError
from diffembed.models.foreign import find_source, fingerprint, model_directories, read_config, read_tokenizer


@pytest.fixture
def released(tmp_path: Path, tiny_tokenizer: Any) -> Path:
    """A contextual pplx-embed in three shards."""
    config, stock = pplx()
    path = write_checkpoint(tmp_path / "pplx-embed-context-tiny", tiny_tokenizer, config, stock.state_dict(), shards=3)
    # as released: architectures are those of the dense model, auto_map names the contextual class
    change(path / "config.json", auto_map={"AutoModel": "modeling.PPLXQwen3ContextualModel"})
    return path


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_pplx_config(released: Path) -> None:
    config = read_config(released)
    assert find_source(released).kind == "released"
    assert (config.name, config.dims, config.max_tokens) == ("pplx-embed-context-tiny", (32,), 64)
    assert (config.contextual, config.quantizer, config.normalize, config.shift) == (True, "tanh-int8", False, True)
    assert (config.prefix_ids, config.suffix_ids, config.query_prompt) == ((), (), "")
    assert (config.pad_token_id, config.eot_token_id, config.mask_token_id) == (2, 2, None)
    change(released / "config.json", auto_map={"AutoModel": "modeling.PPLXQwen3Model"}, max_position_embeddings=131_072)
    config = read_config(released)
    assert (config.contextual, config.max_tokens) == (False, 32_768)
    change(released / "config.json", architectures=["PPLXQwen3ContextualModel"], auto_map=None)
    assert read_config(released).contextual


@pytest.mark.parametrize(
    ("hidden", "dims"),
    [(1024, (128, 256, 512, 1024)), (2560, (128, 256, 512, 1024, 2048, 2560)), (1536, (128, 256, 512, 1024, 1536))],
)
def test_pplx_widths(released: Path, hidden: int, dims: tuple[int, ...]) -> None:
    change(released / "config.json", hidden_size=hidden)
    assert read_config(released).dims == dims


def test_other_models_of_the_pplx_type_are_refused(released: Path) -> None:
    late = [{"type": f"x.{kind}", "path": str(i)} for i, kind in enumerate(("Transformer", "Dense"))]
    (released / "modules.json").write_text(json.dumps(late))
    with pytest.raises(ModelError, match=r"lists Transformer, Dense; of this model_type, mean pooling"):
        read_config(released)
    dense = [{"type": f"x.{kind}", "path": kind} for kind in ("Transformer", "Pooling", "FlexibleQuantizer")]
    (released / "modules.json").write_text(json.dumps(dense))
    assert read_config(released).quantizer == "tanh-int8"


def test_merged_diffembed_config(tmp_path: Path, tiny_tokenizer: Any) -> None:
    tensors = llada()[1]
    path = write_checkpoint(tmp_path / "merged", tiny_tokenizer, LLADA, tensors)
    (path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "find: "}}))
    config = read_config(path)
    assert (config.quantizer, config.normalize, config.dims, config.shift) == ("none", True, (32,), False)
    assert (config.query_prompt, config.document_prompt, config.mask_token_id) == ("find: ", "", 300)
    change(path / "config.json", max_sequence_length=16_384)
    assert read_config(path).max_tokens == 4096


def test_text_that_spells_the_separator_is_text(released: Path, tiny_tokenizer: Any) -> None:
    from tokenizers import AddedToken, Tokenizer

    loose = Tokenizer.from_str(tiny_tokenizer.to_str().replace("<|endoftext|>", "<|other|>"))
    loose.add_tokens([AddedToken("<|endoftext|>", special=False)])  # as some releases have it
    loose.save(str(released / "tokenizer.json"))
    change(released / "config.json", vocab_size=500)
    end = read_config(released).eot_token_id
    assert end == loose.token_to_id("<|endoftext|>")
    assert end not in read_tokenizer(released).encode("a <|endoftext|> b").ids


def test_layouts_that_say_nothing_are_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from safetensors.torch import save_file

    with pytest.raises(ModelError, match="does not exist"):
        find_source(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"not a model directory: diffembed\.json is missing"):
        find_source(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match=r"weights of type 'bert', but nothing says how vectors are made"):
        find_source(tmp_path)
    config, stock = pplx()
    path = write_checkpoint(tmp_path / "bare", tiny_tokenizer, config, stock.state_dict())
    change(path / "config.json", eos_token_id=None)
    (path / "tokenizer.json").write_text(tiny_tokenizer.to_str().replace("<|endoftext|>", "<|other|>"))
    with pytest.raises(ModelError, match="no end-of-text token"):
        read_config(path)
    save_file({}, path / "model.safetensors")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="truncated"):
        read_config(path)


def test_our_own_directory_without_its_config_is_damaged(tiny_model_dir: Path, tmp_path: Path) -> None:
    """It is a sentence-transformers directory, too: read as one, it would lose its widths and its late chunking."""
    path = Path(shutil.copytree(tiny_model_dir, tmp_path / "copy"))
    (path / "diffembed.json").unlink()
    with pytest.raises(ModelError, match=r"written by diffembed, and its diffembed\.json is missing"):
        Encoder.load(path)


@pytest.mark.filterwarnings("ignore")
def test_our_own_model_saved_again_by_the_library_is_the_librarys(tiny_model_dir: Path, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    library.SentenceTransformer(str(tiny_model_dir), device="cpu").save(
        str(tmp_path / "again"), create_model_card=False
    )
    config = read_config(tmp_path / "again")
    assert (config.dims, config.quantizer, config.contextual) == ((64,), "tanh-int8", False)


def test_reading_needs_no_torch(released: Path) -> None:
    script = (
        "import sys\nsys.modules['torch'] = sys.modules['transformers'] = None\n"
        "from pathlib import Path\nfrom diffembed.models.foreign import read_config, fingerprint\n"
        "path = Path(sys.argv[1])\nconfig = read_config(path)\n"
        "print(config.contextual, len(fingerprint(path, config)))\n"
        "from diffembed.encoder import Encoder\n"
        "from diffembed.errors import MissingExtraError\n"
        "try:\n    Encoder.load(path)\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", script, str(released)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "True 64",
        "this needs torch and transformers; add them with: pip install 'diffembed[train]'",
    ], done.stderr


def test_fingerprint_covers_every_file(released: Path, tmp_path: Path) -> None:
    config = read_config(released)
    first = fingerprint(released, config)
    moved = Path(shutil.copytree(released, tmp_path / "moved"))
    assert fingerprint(moved, read_config(moved)) == first
    (moved / "README.md").write_text("a card")
    assert fingerprint(moved, read_config(moved)) == first
    shard = moved / "model-00002-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert fingerprint(moved, config) != first
    shard.write_bytes(data)
    assert fingerprint(moved, config) == first
    assert fingerprint(moved, dataclasses.replace(config, query_prompt="find: ")) != first
    (moved / "tokenizer.model").write_bytes(b"pieces")
    assert fingerprint(moved, config) != first
    (moved / "tokenizer.model").unlink()
    change(moved / "config.json", rms_norm_eps=1e-5)
    assert fingerprint(moved, read_config(moved)) != first


def test_fingerprint_of_our_own_is_that_of_three_files(tiny_model_dir: Path) -> None:
    import hashlib

    digest = hashlib.sha256()
    for name in ("model.safetensors", "tokenizer.json", "diffembed.json"):
        digest.update(hashlib.sha256((tiny_model_dir / name).read_bytes()).digest())
    assert Encoder.load(tiny_model_dir).fingerprint == digest.hexdigest()


@pytest.mark.filterwarnings("ignore")
def test_fingerprint_covers_the_modules_of_a_stack(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    modules = library()
    source = modules.Transformer(str(transformer_dir(tmp_path / "backbone", "bert")))
    path = stack_dir(tmp_path / "model", [source, modules.Pooling(32, "cls"), modules.Dense(32, 8)])
    first = fingerprint(path, read_config(path))
    file = path / "2_Dense" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert fingerprint(path, read_config(path)) != first
    file.write_bytes(data)
    (path / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, "pooling_mode": "max"}))
    assert fingerprint(path, read_config(path)) != first


def test_directories_of_all_layouts_are_listed(released: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    stack = tmp_path / "deep" / "stack"
    stack.mkdir(parents=True)
    (stack / "modules.json").write_text("[]")
    (tmp_path / "deep" / "config.json").write_text("{")
    assert model_directories(tmp_path) == [stack, released]
    assert model_directories(tiny_model_dir) == [tiny_model_dir]


def test_name_of_a_hub_download(released: Path, tmp_path: Path) -> None:
    place = tmp_path / "models--perplexity-ai--pplx-embed-v1-0.6b" / "snapshots" / ("0" * 40)
    place.parent.mkdir(parents=True)
    shutil.move(released, place)
    assert read_config(place).name == "pplx-embed-v1-0.6b"


def test_sizes_are_those_of_the_config(released: Path) -> None:
    assert json.loads((released / "config.json").read_text())["vocab_size"] == SIZES["vocab_size"]
    change(released / "config.json", pad_token_id=10**6, eos_token_id=10**6)
    assert read_config(released).pad_token_id == 2  # padding past the table: the end of text pads
