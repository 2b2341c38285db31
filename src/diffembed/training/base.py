"""What a run starts from: a tokenizer trained here and fresh weights, or a released checkpoint and its tokenizer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffembed.errors import RecipeError
from diffembed.models.backbone import build_qwen3
from diffembed.models.checkpoint import load_tokenizer
from diffembed.models.embedder import Embedder
from diffembed.models.files import atomic_file
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.training.configs import Converted, ModelShape
from diffembed.training.recipe import Recipe
from diffembed.training.state import Report
from diffembed.training.tokenizer import EOT_ID, MASK_ID, PAD_ID, train_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_TOKENIZER, _MARK, _BASE = "tokenizer.json", "tokenizer.recipe.json", "base.json"


@dataclass(frozen=True, slots=True)
class Base:
    """What all stages share.

    Attributes:
        shift: whether the checkpoint's states predict the next token.
        facts: of a released checkpoint, for the manifest: where it is from and how it was laid out.
        loaded: the checkpoint itself if it has just been read; ``first_model`` takes it out, as training changes it.
    """

    tokenizer: Tokenizer
    mask_token_id: int
    pad_token_id: int
    eot_token_id: int
    hidden_size: int
    max_tokens: int
    shift: bool
    facts: dict[str, Any]
    loaded: list[LoadedBackbone] = field(default_factory=list, compare=False)


def settle_base(recipe: Recipe, folder: Path, data_root: Path, output: Path, *, resume: bool, report: Report) -> Base:
    """Train the tokenizer or look into the checkpoint; what an earlier run of the recipe left in ``output`` is used.

    Args:
        folder: the recipe's own, where relative paths start.

    Raises:
        RecipeError: ``output`` holds another recipe's run.
    """
    output.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe.model, ModelShape):
        tokenizer = _trained(recipe, data_root, output, resume=resume, report=report)
        model = recipe.model
        return Base(tokenizer, MASK_ID, PAD_ID, EOT_ID, model.hidden_size, model.max_tokens, shift=True, facts={})
    wanted = json.loads(json.dumps(asdict(recipe.model)))
    known = read_json(output / _BASE)
    fresh: list[LoadedBackbone] = []
    if not (known and resume):
        report(f"reading {recipe.model.checkpoint}")
        loaded = load_converted(recipe.model, folder)
        fresh.append(loaded)
        config = loaded.model.config
        known = {"model": wanted, "facts": {"checkpoint": recipe.model.checkpoint, "layout": loaded.layout}}
        known |= {"mask_token_id": loaded.mask_token_id, "shift": loaded.shift, "hidden_size": config.hidden_size}
        known |= {"pad_token_id": loaded.pad_token_id, "eot_token_id": loaded.eot_token_id}
        known["max_tokens"] = recipe.model.max_tokens or config.max_position_embeddings
        write_text(output / _TOKENIZER, loaded.tokenizer.to_str())
        write_text(output / _BASE, json.dumps(known, indent=2))
    if known["model"] != wanted:
        raise RecipeError(
            f"{output} began from {known['model']['checkpoint']} with another [model]; choose another output, "
            "or remove it to start anew"
        )
    kept = {name: known[name] for name in Base.__slots__ if name not in ("tokenizer", "loaded")}
    return Base(load_tokenizer(output), **kept, loaded=fresh)


def first_model(recipe: Recipe, folder: Path, base: Base) -> Embedder:
    """The weights before the first stage: fresh ones, or the checkpoint's."""
    if isinstance(recipe.model, Converted):
        loaded = base.loaded.pop() if base.loaded else load_converted(recipe.model, folder)
        return Embedder(loaded.model, loaded.head)
    backbone = build_qwen3(
        **asdict(recipe.model),
        vocab_size=base.tokenizer.get_vocab_size(),
        pad_token_id=PAD_ID,
        eos_token_id=EOT_ID,
        seed=recipe.run.seed,
    )
    return Embedder(backbone)


def load_converted(model: Converted, folder: Path) -> LoadedBackbone:
    """The checkpoint that a recipe names: a directory beside the recipe if there is one, else a hub id."""
    local = folder / model.checkpoint
    mask = model.mask_token if model.mask_token != "" else None
    return load_pretrained(
        local if local.is_dir() else model.checkpoint,
        mask_token=mask,
        max_tokens=model.max_tokens or None,
        allow_unproven=model.allow_unproven,
    )


def _trained(recipe: Recipe, data_root: Path, output: Path, *, resume: bool, report: Report) -> Tokenizer:
    assert recipe.tokenizer is not None  # the recipe was checked
    file, mark = output / _TOKENIZER, output / _MARK
    wanted = json.loads(json.dumps({"tokenizer": asdict(recipe.tokenizer), "seed": recipe.run.seed}))
    if file.is_file() and resume:
        if read_json(mark) != wanted:
            raise RecipeError(
                f"{file} was trained by another recipe; choose another output, or remove {output} to start anew"
            )
        return load_tokenizer(output)
    report(f"training a tokenizer of {recipe.tokenizer.vocab_size} entries")
    tokenizer = train_tokenizer(recipe.tokenizer, data_root, recipe.run.seed)
    write_text(mark, json.dumps(wanted))
    write_text(file, tokenizer.to_str())
    return load_tokenizer(output)


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty when there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
