"""The recipe's keys for objectives: what reaches a stage, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffembed.errors import RecipeError
from diffembed.training.configs import PRETRAINING
from diffembed.training.recipe import read_recipe

DIFFUSION = 'kind = "diffusion"'


def _written(path: Path, old: str, new: str) -> Path:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_keys_are_read(recipe_path: Path) -> None:
    keys = 'schedule = "cosine"\nweighting = "cart"\ndraw = "antithetic"\ntruncate_share = 0.01\nalignment_weight = 1'
    stage = read_recipe(_written(recipe_path, DIFFUSION, f"{DIFFUSION}\n{keys}")).stage[1]
    assert (stage.schedule, stage.weighting, stage.draw) == ("cosine", "cart", "antithetic")
    assert (stage.truncate_share, stage.alignment_weight) == (0.01, 1.0)


def test_mntp_is_a_pretraining_stage_that_reads_texts(recipe_path: Path) -> None:
    stage = read_recipe(_written(recipe_path, DIFFUSION, 'kind = "mntp"\nmask_style = "all"')).stage[1]
    assert (stage.kind, stage.mask_rate, stage.mask_style) == ("mntp", 0.2, "all")
    assert stage.kind in PRETRAINING


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (DIFFUSION, f'{DIFFUSION}\nschedule = "cubic"', "'cubic'; expected one of 'linear', 'cosine'"),
        (DIFFUSION, f'{DIFFUSION}\nweighting = "mean"', "expected one of 'elbo', 'mdlm', 'cart', 'masked-mean'"),
        (DIFFUSION, f"{DIFFUSION}\nmask_rate = 0.3", "is diffusion; mask_rate is for mntp stages"),
        ('kind = "causal"', 'kind = "causal"\nschedule = "cosine"', "is causal; schedule is for diffusion stages"),
        ('kind = "pair"', 'kind = "pair"\ntruncate_share = 0.1', "is pair; truncate_share is for diffusion stages"),
        (DIFFUSION, 'kind = "mntp"\nweighting = "cart"', "is mntp; weighting is for diffusion stages"),
        (DIFFUSION, 'kind = "mntp"\nmask_rate = 1.0', "mask_rate = 1.0; it must be above 0 and below 1"),
        (DIFFUSION, f"{DIFFUSION}\ntruncate_share = 1.5", "truncate_share = 1.5; it must be from 0 to 1"),
        (DIFFUSION, f"{DIFFUSION}\nshuffle_window = 1", "shuffle_window = 1; it must be at least 2"),
        (DIFFUSION, f"{DIFFUSION}\nalignment_weight = -1.0", "alignment_weight = -1.0; it must be at least 0"),
        ('kind = "causal"', 'kind = "diffusion"\nalignment_weight = 1.0', "whose parent is a causal stage"),
        ('kind = "causal"', 'kind = "causal"\nalignment_weight = 1.0', "is for diffusion and mntp stages"),
    ],
)
def test_mistakes_are_named(recipe_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(_written(recipe_path, old, new))
