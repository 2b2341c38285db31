"""Recipes: what is refused, and what decides a stage's weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from diffembed.errors import RecipeError
from diffembed.training.configs import Converted
from diffembed.training.recipe import Recipe, read_recipe

RUNS = Path(__file__).resolve().parents[2] / "runs"


RECIPES = sorted(path for path in RUNS.glob("*.toml") if not path.name.startswith("study-"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_shipped_recipes_are_readable(path: Path) -> None:
    recipe = read_recipe(path)
    kinds = [s.kind for s in recipe.stage]
    first = {"bundled": ["causal", "diffusion", "pair"], "cpu-tiny": ["causal", "diffusion", "pair"]}
    assert kinds == first.get(path.stem, kinds)
    assert len({recipe.fingerprint(s) for s in recipe.stage}) == len(kinds)


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
        ("steps = 4", "steps = 0", "stage 'base' has steps = 0; it must be at least 1"),
        ("steps = 4", "steps = 4\nlexical_start = true", "lexical_start is for pair stages"),
        ("[run]", "[run", "not a readable TOML"),
        ("seed = 1", "seed = 1\nkeep = 0", "keep = 0; it must be at least 1"),
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


CAUSAL, PAIR = 'kind = "causal"', 'kind = "pair"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr = 1e-2", "lr = nan", "stage 'base' has lr = nan; it must be a number above 0"),
        ("lr = 1e-2", "lr = 0", "lr = 0.0; it must be a number above 0"),
        ("lr = 1e-2", "lr = inf", "lr = inf"),
        ("batch = 256", "batch = 0", "batch = 0; it must be at least 1"),
        (CAUSAL, f"{CAUSAL}\nmicro_tokens = 0", "micro_tokens = 0"),
        (CAUSAL, f"{CAUSAL}\nwarmup = -1", "warmup = -1; it must be at least 0"),
        (CAUSAL, f"{CAUSAL}\ndecay_share = 1.5", "decay_share = 1.5; it must be from 0 to 1"),
        (CAUSAL, f"{CAUSAL}\nclip = 0", "clip = 0.0; it must be above 0"),
        (CAUSAL, f"{CAUSAL}\nbetas = [0.9]", "betas = \\[0.9\\]; it must be two numbers from 0 to below 1"),
        (CAUSAL, f"{CAUSAL}\nbetas = [0.9, 1.0]", "betas = \\[0.9, 1.0\\]; it must be two numbers"),
        (CAUSAL, f"{CAUSAL}\nlora_rank = -1", "lora_rank = -1; it must be at least 0"),
        (CAUSAL, f"{CAUSAL}\nweight_decay = -0.1", "weight_decay = -0.1"),
        (PAIR, f"{PAIR}\nbinary_weight = -1.0", "stage 'pairs' has binary_weight = -1.0"),
        (PAIR, f"{PAIR}\ntemperature = 0", "temperature = 0.0; it must be a number above 0"),
        ("query_tokens = 8", "query_tokens = 0", "source 'spans' of stage 'pairs' has query_tokens = 0"),
        ("query_tokens = 8", "weight = 0", "source 'spans' of stage 'pairs' has weight = 0.0"),
        ("query_tokens = 8", "remove_span = nan", "remove_span = nan; it must be from 0 to 1"),
        ("query_tokens = 8", "languages = {en = nan}", "languages = {'en': nan}; it must be weights above 0"),
        ("seed = 1", "seed = -1", "\\[run\\] has seed = -1; it must be at least 0"),
        ("heads = 2", "heads = 0", "\\[model\\] has heads = 0; it must be at least 1"),
        ("sequence_tokens = 32", "sequence_tokens = 1", "sequence_tokens = 1; it must be at least 2"),
        ("sequence_tokens = 32", "sequence_tokens = 129", "sequence_tokens = 129; the model reads max_tokens 128"),
        (CAUSAL, f"{CAUSAL}\nshift = false", "is causal and predicts the next token; shift = false is for diffusion"),
        ('kind = "diffusion"', 'kind = "mntp"\nshift = false', "is mntp and predicts the next token"),
        (PAIR, f"{PAIR}\nshift = false", "is pair and keeps what its parent predicts"),
        ('kind = "diffusion"', 'kind = "diffusion"\nshift = "no"', "'stage.shift' is 'no'; expected bool"),
    ],
)
def test_a_value_out_of_its_range_is_named(recipe_path: Path, old: str, new: str, message: str) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    assert old in text
    recipe_path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RecipeError, match=message) as caught:
        read_recipe(recipe_path)
    assert "\n" not in str(caught.value)


def test_the_ends_of_ranges_are_allowed(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8").replace("sequence_tokens = 32", "sequence_tokens = 128", 1)
    keys = "warmup = 0\ndecay_share = 1\nclip = inf\nlora_rank = 0\nbetas = [0, 0.999]"
    recipe_path.write_text(text.replace(CAUSAL, f"{CAUSAL}\n{keys}"), encoding="utf-8")
    stage = read_recipe(recipe_path).stage[0]
    assert (stage.warmup, stage.decay_share, stage.clip, stage.betas) == (0, 1.0, math.inf, (0.0, 0.999))


def _with_shifts(path: Path, **keys: str) -> Recipe:
    """The recipe with further keys after each stage's name."""
    text = path.read_text(encoding="utf-8")
    for name, key in keys.items():
        text = text.replace(f'name = "{name}"', f'name = "{name}"\n{key}')
    path.with_name("shifts.toml").write_text(text, encoding="utf-8")
    return read_recipe(path.with_name("shifts.toml"))


def test_a_stage_keeps_the_shift_of_what_it_starts_from(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8").replace('kind = "causal"', 'kind = "diffusion"')
    recipe_path.write_text(text, encoding="utf-8")
    open_ = _with_shifts(recipe_path)
    for base in (True, False):
        settled = open_.with_shift(base)
        assert [s.shift for s in settled.stage] == [base, base, None]
        assert [open_.shift_after(s, base) for s in open_.stage] == [base] * 3
        assert [s.predicts_next for s in settled.stage[:2]] == [base, base]
    given = _with_shifts(recipe_path, base="shift = false").with_shift(True)
    assert [given.shift_after(s, True) for s in given.stage] == [False, False, False]
    given = _with_shifts(recipe_path, diffusion="shift = true").with_shift(False)
    assert [given.shift_after(s, False) for s in given.stage] == [False, True, True]
    recipe_path.write_text(text.replace('kind = "diffusion"', 'kind = "mntp"', 1), encoding="utf-8")
    given = _with_shifts(recipe_path).with_shift(False)
    assert [given.shift_after(s, False) for s in given.stage] == [True, True, True], "mntp predicts the next token"


def test_a_settled_shift_is_the_same_stage_as_the_one_that_was_given(recipe_path: Path) -> None:
    """Checkpoints from before the default was settled by the parent stay good: true was the default."""

    def prints(recipe: Recipe) -> list[str]:
        return [recipe.fingerprint(s) for s in recipe.stage]

    plain = _with_shifts(recipe_path)
    assert (
        prints(plain) == prints(plain.with_shift(True)) == prints(_with_shifts(recipe_path, diffusion="shift = true"))
    )
    unshifted = _with_shifts(recipe_path, diffusion="shift = false")
    assert prints(unshifted)[0] == prints(plain)[0]
    assert not set(prints(unshifted)[1:]) & set(prints(plain)[1:])


def test_fingerprints_of_the_shipped_recipes_stay() -> None:
    """The embedded model's manifest and many a folder of checkpoints name them."""
    known = {
        "bundled": ["bc9be92838eeb169", "269feddfaf11df06", "d26eea6bef87ddc0"],
        "cpu-tiny": ["3f45ea65ed508c14", "a7e26def731c1393", "089dea1f537e84b2"],
    }
    for name, prints in known.items():
        recipe = read_recipe(RUNS / f"{name}.toml")
        for one in (recipe, recipe.with_shift(True)):
            assert [one.fingerprint(s) for s in one.stage] == prints


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
    recipe_path.write_text(text.replace("seed = 1", "seed = 1\nheld_out_every = 5"), encoding="utf-8")
    after = read_recipe(recipe_path)
    assert [before.fingerprint(s) for s in before.stage] == [after.fingerprint(s) for s in after.stage]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("held_out_every = -1", "\\[run\\] has held_out_every = -1; it must be at least 0"),
        ("held_out_every = 5\nparallel = 'fsdp2'", "held_out_every needs whole weights.* use ddp"),
    ],
)
def test_held_out_every_that_cannot_be(recipe_path: Path, keys: str, message: str) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    recipe_path.write_text(text.replace("seed = 1", f"seed = 1\n{keys}"), encoding="utf-8")
    with pytest.raises(RecipeError, match=message):
        read_recipe(recipe_path)


def test_a_log_needs_steps_between_its_rows(recipe_path: Path) -> None:
    text = recipe_path.read_text(encoding="utf-8")
    recipe_path.write_text(text.replace("log_every = 1", "log_every = 0"), encoding="utf-8")
    with pytest.raises(RecipeError, match="log_every = 0; it must be at least 1"):
        read_recipe(recipe_path)


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
