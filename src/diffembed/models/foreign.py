"""Model directories of every layout that Encoder loads, and how each makes vectors, read without torch.

- ``diffembed``: our own, with ``diffembed.json``.
- ``released``: pplx-embed v1 and context-v1 (arXiv 2602.11151), and merged DiffEmbed models on Dream or LLaDA (arXiv
  2505.15045), told by the ``model_type`` of ``config.json``. Its ``auto_map`` is not followed.
- ``adapter``: a DiffEmbed LoRA adapter in peft's layout, over a base model that it names.
- ``stock``: a sentence-transformers directory that is mean pooling over a stock architecture (``Stack.plain``).
- ``modules``: any other sentence-transformers directory.

What our own ``diffembed.json`` says is made here, in memory, from what the directory says.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffembed.errors import ModelError
from diffembed.models.checkpoint import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    load_tokenizer,
    read_json,
    read_model_config,
    read_stock_config,
)
from diffembed.models.files import weight_files
from diffembed.models.lora import ADAPTER_CONFIG, LLM2VEC_FILE, Adapter, read_adapter
from diffembed.models.released import EMBEDDERS, Layout, layout_of, read_layout_tokenizer, settle_ends
from diffembed.models.stack import (
    MODULES_FILE,
    PROMPTS_FILE,
    Stack,
    read_prompts,
    read_stack,
    require_mean_pooling,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["diffembed", "released", "adapter", "stock", "modules"]
_PPLX_DIMS = (128, 256, 512, 1024, 2048, 2560)  # the family's Matryoshka widths, as far as the hidden size goes
_PPLX_TOKENS = 32_768
_DIFFEMBED_TOKENS = 4096  # what DiffEmbed was trained and measured with, section 5 of its paper
_INDEX_FILE = "model.safetensors.index.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "vocab.txt")
_ABOUT = ("config.json", *_TOKENIZER_FILES, "added_tokens.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the parts of a model stand.

    Attributes:
        kind: one of those at the top of this file.
        root: the directory that was asked for.
        weights: folder of the backbone's ``config.json`` and safetensors.
        layout: what the backbone is, for all kinds but ``modules``.
        adapter: what is merged into it.
        stack: what a sentence-transformers directory computes.
    """

    kind: Kind
    root: Path
    weights: Path
    layout: Layout | None = None
    adapter: Adapter | None = None
    stack: Stack | None = None

    @property
    def model_type(self) -> str:
        """The stock architecture of the backbone; empty where the modules run by themselves."""
        if self.kind == "diffembed":
            return str(read_stock_config(self.root).get("model_type"))
        return self.layout.model_type if self.layout else ""


def find_source(path: str | Path, *, download: bool = True) -> Source:
    """Tell the layout of a model directory and find its parts.

    Args:
        download: fetch the base model of an adapter from the hub where it is not here yet.

    Raises:
        ModelError: no model directory, a layout that is not known, a part that is missing or damaged.
        MissingExtraError: a base model on the hub, and ``huggingface_hub`` is not installed.
    """
    root = Path(path)
    if not root.is_dir():
        raise ModelError(f"model directory {root} does not exist; give a directory, a hub id or 'default'")
    if (root / CONFIG_FILE).exists():
        return Source("diffembed", root, root)
    adapted = (root / ADAPTER_CONFIG).exists()
    if (root / MODULES_FILE).exists() and not _is_embedder(root):
        adapter = read_adapter(root, download=download) if adapted else None
        stack = read_stack(root, adapter.base if adapter else None)
        layout = layout_of(stack.stock, str(stack.first)) if stack.plain else None
        return Source("stock" if stack.plain else "modules", root, stack.first, layout, adapter, stack)
    if adapted:
        adapter = read_adapter(root, download=download)
        layout = layout_of(read_json(adapter.base / "config.json"), str(adapter.base))
        weight_files(adapter.base)
        return Source("adapter", root, adapter.base, layout, adapter)
    if _is_embedder(root):
        require_mean_pooling(root)
        weight_files(root)
        return Source("released", root, root, layout_of(read_json(root / "config.json"), str(root)))
    if not (root / "config.json").exists():
        raise ModelError(f"{root} is not a model directory: {CONFIG_FILE} is missing; copy the whole directory again")
    kind = read_json(root / "config.json").get("model_type")
    raise ModelError(
        f"{root} holds weights of type {kind!r}, but nothing says how vectors are made from them: {CONFIG_FILE} and "
        f"{MODULES_FILE} is missing. Save it with sentence-transformers, or make an embedder of it: diffembed train"
    )


def model_directories(folder: Path) -> list[Path]:
    """All directories in and under a folder that Encoder can try to load, told by the files that announce them."""
    found = {file.parent for name in (CONFIG_FILE, MODULES_FILE, ADAPTER_CONFIG) for file in folder.glob(f"**/{name}")}
    for file in folder.glob("**/config.json"):
        try:
            if _is_embedder(file.parent):
                found.add(file.parent)
        except ModelError:  # not JSON: nothing that announces a model
            continue
    return sorted(found)


def read_config(path: str | Path, *, download: bool = True) -> ModelConfig:
    """Check a model directory of any layout and say how it makes vectors.

    Raises:
        ModelError: as ``read_model_config`` and :func:`find_source`.
    """
    source = find_source(path, download=download)
    return read_model_config(path) if source.kind == "diffembed" else read_foreign(source)


def read_foreign(source: Source) -> ModelConfig:
    """The ``diffembed.json`` that a directory of another layout would have.

    Raises:
        ModelError: a tokenizer that is missing or cannot be read, special tokens outside the embedding table.
    """
    tokenizer = _tokenizer(source)
    stock = source.stack.stock if source.stack else _layout(source).stock
    config = _stack_config(source, tokenizer) if source.stack else _language_model_config(source, tokenizer)
    rows = int(stock.get("vocab_size") or 0)
    special = {"padding": config.pad_token_id, "separator": config.eot_token_id}
    for name, token in special.items():
        if rows and not 0 <= token < rows:
            raise ModelError(f"{source.root}: {name} token {token} lies outside the embedding table of {rows} rows")
    return config


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a model directory of any layout, ready for user text as by ``load_tokenizer``."""
    return _tokenizer(find_source(path))


def fingerprint(path: str | Path, config: ModelConfig) -> str:
    """SHA-256 over all that vectors depend on: weights, tokenizer, and how they are made.

    For a directory of ours these are its three files; for another, every file of its parts (shards, modules, the base
    under an adapter) with its name, and the config that was made from them.
    """
    source = find_source(path)
    digest = hashlib.sha256()
    if source.kind == "diffembed":
        for name in (WEIGHTS_FILE, TOKENIZER_FILE, CONFIG_FILE):
            digest.update(_digest(source.root / name))
        return digest.hexdigest()
    for name, file in sorted(_files(source)):
        digest.update(name.encode() + b"\0" + _digest(file))
    # Folders may be moved: the name is one, and the manifest of an adapter names another.
    digest.update(dataclasses.replace(config, name="", manifest={}).to_json().encode())
    return digest.hexdigest()


def _files(source: Source) -> Iterator[tuple[str, Path]]:
    """Every file that vectors depend on, with a name that does not change when the directory moves."""
    folders = [source.root, *(source.stack.parts if source.stack else ()), source.weights]
    folders += [source.adapter.base] if source.adapter else []
    for number, folder in enumerate(dict.fromkeys(folders)):
        known = [*_ABOUT, MODULES_FILE, PROMPTS_FILE, ADAPTER_CONFIG, LLM2VEC_FILE, _INDEX_FILE]
        files = {folder / name for name in known} | set(folder.glob("*.safetensors"))
        files |= {*folder.glob("sentence_*_config.json"), *folder.glob("*.model")}  # the latter of sentencepiece
        yield from ((f"{number}/{file.name}", file) for file in files if file.is_file())


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _is_embedder(root: Path) -> bool:
    """Released embedders have a ``modules.json`` too, which names code of their own."""
    file = root / "config.json"
    return file.exists() and read_json(file).get("model_type") in EMBEDDERS


def _layout(source: Source) -> Layout:
    assert source.layout is not None
    return source.layout


def _tokenizer(source: Source) -> Tokenizer:
    if source.kind == "diffembed":
        return load_tokenizer(source.root)
    slow = source.layout.slow_tokenizer if source.layout else None
    here = source.root if source.stack is None else source.weights
    if source.adapter and not any((here / name).exists() for name in _TOKENIZER_FILES):
        here = source.adapter.base
    tokenizer = read_layout_tokenizer(here, slow)
    if source.stack is None:
        from diffembed.models.masking import shield

        shield(tokenizer, _ends(source, tokenizer))
    elif source.stack.lowercase:
        from tokenizers import normalizers

        own = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])
    return tokenizer


def _ends(source: Source, tokenizer: Tokenizer) -> tuple[int, int]:
    """Ids of padding and of the end of text of a language model."""
    stock = _layout(source).stock
    return settle_ends(tokenizer, int(stock["vocab_size"]), stock.get("pad_token_id"), stock.get("eos_token_id"))


def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer's template puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    framed = tokenizer.encode("a", add_special_tokens=True).ids
    start = next((i for i in range(len(framed)) if bare and framed[i : i + len(bare)] == bare), None)
    if start is None:
        raise ModelError(f"the tokenizer reads 'a' as {bare}, and with special tokens as {framed}; not supported")
    return tuple(framed[:start]), tuple(framed[start + len(bare) :])


def _stack_config(source: Source, tokenizer: Tokenizer) -> ModelConfig:
    stack = source.stack
    assert stack is not None
    prefix, suffix = ((), ()) if stack.static else _frame(tokenizer)
    pad = int(stack.stock.get("pad_token_id") or 0)
    masks = (tokenizer.token_to_id(token) for token in ("[MASK]", "<mask>"))
    return ModelConfig(
        name=_name(source.root),
        dims=(stack.width,),
        max_tokens=stack.max_tokens,
        mask_token_id=next((i for i in masks if i is not None), None),
        pad_token_id=pad,
        eot_token_id=suffix[-1] if suffix else pad,
        pooling="mean" if stack.plain else "modules",
        quantizer=stack.quantizer,
        normalize=stack.normalize,
        prefix_ids=prefix,
        suffix_ids=suffix,
        query_prompt=stack.query_prompt,
        document_prompt=stack.document_prompt,
        manifest={
            "layout": "sentence-transformers",
            "model_type": str(stack.stock.get("model_type", "static")),
            "modules": list(stack.kinds),
            "pooling": stack.pooling,
        },
    )


def _language_model_config(source: Source, tokenizer: Tokenizer) -> ModelConfig:
    """pplx-embed, and DiffEmbed with or without an adapter."""
    layout, root = _layout(source), source.root
    stock = layout.stock
    about = read_json(root / PROMPTS_FILE) if (root / PROMPTS_FILE).exists() else {}
    query, document = read_prompts(about)
    prefix, suffix = _frame(tokenizer)
    hidden = int(stock["hidden_size"])
    pad, end = _ends(source, tokenizer)
    pplx = layout.name.startswith("pplx")
    longest = _PPLX_TOKENS if pplx else source.adapter.max_tokens if source.adapter else None
    return ModelConfig(
        name=_name(root),
        dims=(*(d for d in _PPLX_DIMS if d < hidden), hidden) if pplx else (hidden,),
        max_tokens=min(longest or _DIFFEMBED_TOKENS, int(stock.get("max_position_embeddings") or _PPLX_TOKENS)),
        mask_token_id=layout.mask_token_id,
        pad_token_id=pad,
        eot_token_id=end,
        contextual=layout.name == "pplx-contextual",
        quantizer="tanh-int8" if pplx else "none",
        normalize=not pplx,
        shift=layout.shift,
        prefix_ids=prefix,
        suffix_ids=suffix,
        query_prompt=query,
        document_prompt=document,
        manifest={"layout": layout.name} | ({"base": source.adapter.base_name} if source.adapter else {}),
    )


def _name(root: Path) -> str:
    """The folder's name; of a hub download, which stands in ``models--OWNER--NAME/snapshots/COMMIT``, the model's."""
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        return root.parent.parent.name.rpartition("--")[2]
    return root.absolute().parent.name if root.name == "model" else root.absolute().name
