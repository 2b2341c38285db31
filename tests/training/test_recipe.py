"""Recipes: what is refused, and what decides a stage's weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffembed.errors import RecipeError
from diffembed.training.recipe import Converted, read_recipe

RUNS = Path(__file__).resolve().parents[2] / "runs"


@pytest.mark.parametrize("path", sorted(RUNS.glob("*.toml")), ids=lambda p: p.name)
def test_shipped_recipes_are_readable(path: Path) -> None:
    recipe = read_recipe(path)
    assert [s.kind for s in recipe.stage] == ["causal", "diffusion", "pair"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 1", "sead = 1", "unknown key 'sead' in \\[run\\]"),
        ("lr = 1e-2", 'lr = "fast"', "'stage.lr' is 'fast'; expected float"),
        ('kind = "causal"', 'kind = "causall"', "expected one of 'causal'"),
        ('name = "tiny"', "", "\\[run\\] lacks 'name'"),
        ('name = "diffusion"', 'name = "base"', "names of their own"),
        ('name = "diffusion"', 'name = "diffusion"\nparent = "pairs"', "not an earlier stage"),
        ('kind = "spans"', 'kind = "text"', "cannot read source 'spans'"),
        ("dims = [16, 32]", "dims = [16, 64]", "dims 64"),
        ("steps = 4", "steps = 0", "above 0"),
        ("steps = 4", "steps = 4\nlexical_start = true", "lexical_start is for pair stages"),
        ("[run]", "[run", "not a readable TOML"),
        ("seed = 1", "seed = 1\nkeep = 0", "keep is 0"),
        ("seed = 1", 'seed = 1\nparallel = "fsdp"', "expected one of 'ddp', 'fsdp2'"),
        ("steps = 4", "steps = 4\nlora_alpha = 8.0", "no lora_rank"),
        ("hidden_size = 32", 'checkpoint = "x"', "unknown key 'checkpoint' in \\[model\\]"),
    ],
)
def test_mistakes_are_named(recipe_path: Path, old: str, new: str, message: str) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    assert old in text
    recipe_path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(recipe_path)
    assert "\n" not in str(caught.value).split("TOML file")[0]


def test_a_checkpoint_takes_the_place_of_shape_and_tokenizer(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    shape = text[text.index("[model]") : text.index("[[stage]]")]
    tokenizer = text[text.index("[tokenizer]") : text.index("[model]")]
    for mask in ('"<mask>"', "7"):
        table = f'[model]\ncheckpoint = "some/model"\nmask_token = {mask}\n'
        recipe_path.write_text(text.replace(shape, table).replace(tokenizer, ""), encoding="utf-8")
        recipe = read_recipe(recipe_path)
        assert recipe.model == Converted("some/model", mask_token=7 if mask == "7" else "<mask>")
        assert recipe.tokenizer is None
    recipe_path.write_text(text.replace(shape, table), encoding="utf-8")
    with pytest.raises(RecipeError, match="a checkpoint brings its own"):
        read_recipe(recipe_path)
    recipe_path.write_text(text.replace(tokenizer, ""), encoding="utf-8")
    with pytest.raises(RecipeError, match="belongs to a model given by its shape"):
        read_recipe(recipe_path)
    recipe_path.write_text(text.replace(shape, table.replace("= 7", "= true")).replace(tokenizer, ""), encoding="utf-8")
    with pytest.raises(RecipeError, match="'model.mask_token' is True; expected int"):
        read_recipe(recipe_path)


def test_keys_of_computing_do_not_disown_a_checkpoint(recipe_path: Path) -> None:
    before = read_recipe(recipe_path)
    text = recipe_path.read_text(encoding="utf-8")
    other = 'seed = 1\nkeep = 5\nparallel = "fsdp2"\ntensorboard = true'
    recipe_path.write_text(text.replace("seed = 1", other), encoding="utf-8")
    after = read_recipe(recipe_path)
    assert [before.fingerprint(s) for s in before.stage] == [after.fingerprint(s) for s in after.stage]


def test_missing_recipe() -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(Path("nowhere.toml"))


def test_fingerprint_follows_the_parents(recipe_path: Path) -> None:
    before = read_recipe(recipe_path)
    text = recipe_path.read_text(encoding="utf-8")
    recipe_path.write_text(text.replace("steps = 4", "steps = 5"), encoding="utf-8")  # the first stage
    after = read_recipe(recipe_path)
    for old, new in zip(before.stage, after.stage, strict=True):
        assert before.fingerprint(old) != after.fingerprint(new)
    recipe_path.write_text(text.replace("dims = [16, 32]", "dims = [8, 32]"), encoding="utf-8")  # the last
    other = read_recipe(recipe_path)
    same = [before.fingerprint(a) == other.fingerprint(b) for a, b in zip(before.stage, other.stage, strict=True)]
    assert same == [True, True, False]
