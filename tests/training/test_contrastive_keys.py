"""The recipe's keys for contrastive stages: what is read, what is refused and by which words, what decides weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.training.all_stages import RECIPE

from diffembed.errors import RecipeError
from diffembed.training.configs import MineConfig
from diffembed.training.recipe import Recipe, read_recipe

HEAD = RECIPE[: RECIPE.index("[[stage]]")]
_STAGES = {
    part.split('"')[1]: f"[[stage]]{part}"
    for part in RECIPE[len(HEAD) : RECIPE.index("[score]")].split("[[stage]]")[1:]
}
SCORE = RECIPE[RECIPE.index("[score]") :]
BASE, PAIRS, CONTEXTUAL, TRIPLET, MERGED, FREE = (
    _STAGES[name] for name in ("base", "pairs", "contextual", "triplet", "merged", "free")
)
WHOLE = "".join([HEAD, BASE, PAIRS, CONTEXTUAL, TRIPLET, MERGED, FREE, SCORE])


def read(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def changed(folder: Path, stage: str, *lines: str, of: str = "", old: str = "") -> Recipe:
    """The whole recipe with further lines in one stage: after its kind, after a source's kind (``of``), or in place."""
    before = old or (
        f'kind = "{of}"\n' if of else next(x for x in stage.splitlines(keepends=True) if x.startswith("kind"))
    )
    assert before in stage and WHOLE.count(stage) == 1
    added = "".join(f"{line}\n" for line in lines)
    after = stage.replace(before, added if old else f"{before}{added}", 1)
    return read(folder, WHOLE.replace(stage, after))


def refused(folder: Path, stage: str, *lines: str, of: str = "", old: str = "") -> str:
    with pytest.raises(RecipeError) as caught:
        changed(folder, stage, *lines, of=of, old=old)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'recipe.toml'}: ") and "\n" not in said
    return said.removeprefix(f"{folder / 'recipe.toml'}: ")


def test_what_is_read(tmp_path: Path) -> None:
    recipe = read(tmp_path, WHOLE)
    stages = {stage.name: stage for stage in recipe.stage}
    assert stages["triplet"].mine == MineConfig(negatives=2, last=20, relative_margin=0.0)
    assert stages["merged"].parents == ("contextual", "triplet") and stages["merged"].sweep == (0.2, 0.9)
    assert stages["free"].source[0].chunk_tokens == (5, 20) and not stages["free"].gold
    assert recipe.score.contextual == ("chunks",)
    margins = {
        name: (stages[name].mask_margin, stages[name].asks_queries) for name in ("pairs", "contextual", "triplet")
    }
    assert margins == {"pairs": (0.1, True), "contextual": (0.1, True), "triplet": (None, False)}


def test_the_ends_of_ranges_are_allowed(tmp_path: Path) -> None:
    keys = ["memory_tokens = 0", "margin = inf", "distill_weight = 0", "alpha = 1", "beta = [0, 1]"]
    stage = changed(tmp_path, CONTEXTUAL, *keys, old="memory_tokens = 0\n").stage[2]
    assert (stage.memory_tokens, stage.mask_margin, stage.beta) == (0, None, (0.0, 1.0))
    assert changed(tmp_path, TRIPLET, "margin = -0.5", "negatives = 1").stage[3].mask_margin == -0.5
    assert changed(tmp_path, MERGED, "sweep = [0, 1]", old="sweep = [0.2, 0.9]\n").stage[4].sweep == (0.0, 1.0)
    assert changed(tmp_path, MERGED, 'method = "soup"', old="sweep = [0.2, 0.9]\n").stage[4].method == "soup"
    assert changed(tmp_path, FREE, 'kind = "pairs"', old='kind = "rows"\n').stage[5].source[0].kind == "pairs"
    dot = changed(tmp_path, PAIRS, 'similarity = "dot"', "margin = inf").stage[1]
    assert dot.mask_margin is None and math.isinf(dot.margin or 0.0)
    assert changed(tmp_path, CONTEXTUAL, "query_negatives = true").stage[2].asks_queries
    assert changed(tmp_path, FREE, "query_negatives = false").stage[5].query_negatives is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alpha = 0.5", "stage 'pairs' is pair; alpha is for contextual stages"),
        ("beta = [0.1, 0.2]", "beta is for contextual stages"),
        ("gold = false", "gold is for contextual stages"),
        ("negatives = 2", "negatives is for triplet stages"),
        ("mine = {}", "mine is for triplet stages"),
        ('parents = ["base", "base"]', "parents is for merge stages"),
        ('method = "soup"', "method is for merge stages"),
        ("sweep = [0.1]", "sweep is for merge stages"),
    ],
)
def test_keys_of_other_stages(line: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, PAIRS, line)


@pytest.mark.parametrize(
    "line",
    [
        *("temperature = 0.1", "margin = 0.2", "query_negatives = false", 'similarity = "dot"', 'quantize = "none"'),
        *("binary_weight = 1.0", "memory_tokens = 1", 'teacher = "x"', 'distill = "cosine"', "distill_weight = 2.0"),
        "teacher_temperature = 0.1",
    ],
)
def test_keys_of_contrastive_stages(line: str, tmp_path: Path) -> None:
    said = refused(tmp_path, BASE, line)
    assert said == f"stage 'base' is causal; {line.split()[0]} is for pair and contextual and triplet stages"


@pytest.mark.parametrize(
    ("stage", "line", "message"),
    [
        (PAIRS, "memory_tokens = -1", "stage 'pairs' has memory_tokens = -1; it must be at least 0"),
        (PAIRS, "distill_weight = -0.1", "distill_weight = -0.1; it must be at least 0"),
        (PAIRS, "teacher_temperature = 0", "teacher_temperature = 0.0; it must be a number above 0"),
        (PAIRS, "margin = nan", "margin = nan; it must be a number"),
        (PAIRS, "lora_rank = 1\nlora_dropout = 1", "lora_dropout = 1.0; it must be at least 0 and below 1"),
        (PAIRS, "lora_dropout = 0.5", "has lora_targets, lora_alpha or lora_dropout but no lora_rank"),
        (TRIPLET, "negatives = 0", "stage 'triplet' has negatives = 0; it must be at least 1"),
        (CONTEXTUAL, "alpha = 1.5", "stage 'contextual' has alpha = 1.5; it must be from 0 to 1"),
        (CONTEXTUAL, "beta = [0.5]", "beta = [0.5]; it must be two numbers from 0 to 1"),
        (CONTEXTUAL, "beta = [0.2, 1.5]", "beta = [0.2, 1.5]; it must be two numbers from 0 to 1"),
        (PAIRS, 'similarity = "l2"', "'stage.similarity' is 'l2'; expected one of 'cosine', 'dot'"),
        (PAIRS, 'quantize = "int8"', "'stage.quantize' is 'int8'; expected one of 'tanh-int8', 'none'"),
        (PAIRS, 'distill = "mse"', "'stage.distill' is 'mse'; expected one of 'kl', 'cosine', 'chunks'"),
        (PAIRS, "query_negatives = 1", "'stage.query_negatives' is 1; expected bool"),
        (CONTEXTUAL, 'similarity = "dot"', "is contextual, which compares by cosine"),
        (
            PAIRS,
            'similarity = "dot"',
            'has similarity = "dot" and margin 0.1, which is in cosine units; set margin = inf',
        ),
        (PAIRS, 'distill = "cosine"', "stage 'pairs' has distill but no teacher; name a model, or leave it out"),
        (PAIRS, "distill_weight = 2.0", "stage 'pairs' has distill_weight but no teacher"),
        (PAIRS, 'teacher = "x"\ndistill = "chunks"', 'is pair; distill = "chunks" judges the chunks of a document'),
        (CONTEXTUAL, "query_negatives = false", "is contextual: with gold chunks other queries are negatives too"),
        (FREE, "query_negatives = true", "leave query_negatives out"),
        (FREE, "alpha = 0.3", "stage 'free' has gold = false and so no terms to weigh; leave alpha out"),
        (FREE, "beta = [0.3, 0.4]", "leave beta out"),
        (PAIRS, 'windows = "all"', "windows is for stages that model language"),
        (CONTEXTUAL, "shift = false", "is contextual and keeps what its parent predicts"),
        (CONTEXTUAL, "alignment_weight = 1.0", "is for diffusion and mntp stages"),
    ],
)
def test_objectives_that_cannot_be(stage: str, line: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, stage, line)


@pytest.mark.parametrize(
    ("lines", "old", "message"),
    [
        (
            ["negatives = 0"],
            "negatives = 2\n",
            "stage 'triplet', [stage.mine] has negatives = 0; it must be at least 1",
        ),
        (["first = 0"], "last = 20\n", "[stage.mine] has first = 0; it must be at least 1"),
        (["first = 30", "last = 20"], "last = 20\n", "stage 'triplet' mines ranks 30 to 20; last must not be smaller"),
        (["margin = -0.1"], "last = 20\n", "[stage.mine] has margin = -0.1; it must be at least 0"),
        (
            ["relative_margin = 1"],
            "relative_margin = 0.0\n",
            "relative_margin = 1.0; it must be at least 0 and below 1",
        ),
        (['sampling = "best"'], "last = 20\n", "'stage.mine.sampling' is 'best'; expected one of 'top', 'random'"),
        (["ranks = 3"], "last = 20\n", "unknown key 'ranks' in [stage.mine]"),
        (['parent = "[model]"'], 'parent = "pairs"\n', "stage 'triplet' mines with its parent, and has none"),
        (['kind = "rows"'], 'kind = "pairs"\n', 'mines negatives for sources of kind "pairs", and has none'),
        (
            ['kind = "pairs"', 'split_by = "doc_id"'],
            'kind = "pairs"\n',
            "mines source 'judged' by the side of its queries",
        ),
        (
            ["[[stage.source]]"],
            TRIPLET[TRIPLET.index("[stage.mine]") : TRIPLET.index("[[stage.source]]")] + "[[stage.source]]\n",
            "source 'judged' of stage 'triplet' has pairs without negatives; give the stage a [stage.mine]",
        ),
    ],
)
def test_mining_that_cannot_be(lines: list[str], old: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, TRIPLET, *lines, old=old)


@pytest.mark.parametrize(
    ("lines", "old", "message"),
    [
        (
            ['parents = ["contextual", "nowhere"]'],
            "parents",
            "stage 'merged' names parent 'nowhere', which is not an earlier",
        ),
        (['parents = ["contextual", "free"]'], "parents", "names parent 'free', which is not an earlier stage"),
        (['parents = ["contextual"]'], "parents", "has parents ['contextual']; name two or more different stages"),
        (['parents = ["triplet", "triplet"]'], "parents", "name two or more different stages"),
        (
            ['parents = ["pairs", "base"]'],
            "parents",
            "has parent 'base', which is causal; merge models that read both ways",
        ),
        (
            ['parents = ["pairs", "contextual", "triplet"]'],
            "parents",
            "stage 'merged' (merge): slerp is between two parents, not 3; use soup",
        ),
        (
            ['parents = ["pairs", "triplet"]', "lr = 0.1"],
            "parents",
            "has lr; a merge has no data and no steps, only kind",
        ),
        (['parents = ["pairs", "triplet"]', 'parent = "pairs"'], "parents", "has parent; a merge has no data"),
        (['parents = ["pairs", "triplet"]', "steps = 3"], "parents", "has steps; a merge has no data"),
        (
            ['parents = ["pairs", "triplet"]', 'teacher = "x"'],
            "parents",
            "teacher is for pair and contextual and triplet",
        ),
        (
            ['parents = ["pairs", "triplet"]', 'method = "soup"'],
            "parents",
            "a soup is the mean of its parents; sweep is for",
        ),
        (["sweep = []"], "sweep", "has sweep = []; it must be at least one number from 0 to 1"),
        (["sweep = [0.5, 1.1]"], "sweep", "has sweep = [0.5, 1.1]; it must be at least one number from 0 to 1"),
        (["sweep = [nan]"], "sweep", "has sweep = [nan]"),
        (['method = "mean"'], "sweep", "'stage.method' is 'mean'; expected one of 'slerp', 'linear', 'soup'"),
    ],
)
def test_merges_that_cannot_be(lines: list[str], old: str, message: str, tmp_path: Path) -> None:
    line = next(x for x in MERGED.splitlines(keepends=True) if x.startswith(old))
    assert message in refused(tmp_path, MERGED, *lines, old=line)


def test_a_sweep_needs_something_to_choose_by(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"stage 'merged' \(merge\) chooses among 2 shares by score; give \[score\] sets"
    ):
        read(tmp_path, WHOLE.replace(SCORE, ""))
    assert read(tmp_path, WHOLE.replace(SCORE, "[score]\nsections = ['long']\n"))
    assert read(tmp_path, WHOLE.replace(SCORE, "").replace("sweep = [0.2, 0.9]", "sweep = [0.2]"))


@pytest.mark.parametrize(
    ("stage", "kind", "other", "message"),
    [
        (
            PAIRS,
            "pairs",
            "groups",
            "stage 'pairs' (pair) cannot read source 'judged' of kind 'groups'; expected pairs or rows",
        ),
        (PAIRS, "pairs", "sections", "expected pairs or rows or spans"),
        (CONTEXTUAL, "groups", "pairs", "stage 'contextual' (contextual) cannot read source 'chunks' of kind 'pairs'"),
        (CONTEXTUAL, "groups", "spans", "expected groups or rows or sections"),
        (FREE, "rows", "text", "expected groups or pairs or rows or sections"),
        (TRIPLET, "pairs", "groups", "expected pairs or rows"),
        (TRIPLET, "pairs", "spans", "stage 'triplet' (triplet) cannot read source 'judged' of kind 'spans'"),
    ],
)
def test_sources_that_a_stage_cannot_read(stage: str, kind: str, other: str, message: str, tmp_path: Path) -> None:
    assert message in refused(tmp_path, stage, f'kind = "{other}"', old=f'kind = "{kind}"\n')


@pytest.mark.parametrize(
    ("stage", "kind", "line", "message"),
    [
        (
            PAIRS,
            "pairs",
            "questions = 3",
            "source 'judged' of stage 'pairs' is of kind 'pairs'; questions is for others",
        ),
        (PAIRS, "pairs", 'bad_rows = "skip"', "is of kind 'pairs'; bad_rows is for others"),
        (PAIRS, "pairs", "remove_span = 0.1", "is of kind 'pairs'; remove_span is for others"),
        (
            PAIRS,
            "spans",
            'split_by = "doc_id"',
            "source 'spans' of stage 'pairs' is of kind 'spans'; split_by is for others",
        ),
        (PAIRS, "spans", 'instruction = "find"', "is of kind 'spans'; instruction is for others"),
        (PAIRS, "spans", 'instruction_format = "{instruction}: {query}"', "instruction_format is for others"),
        (CONTEXTUAL, "groups", 'bad_rows = "skip"', "is of kind 'groups'; bad_rows is for others"),
        (CONTEXTUAL, "groups", "languages = {en = 1}", "is of kind 'groups'; languages are for text, spans and rows"),
        (CONTEXTUAL, "rows", 'split_by = "doc_id"', "is of kind 'rows'; split_by is for others"),
        (CONTEXTUAL, "rows", "questions = 0", "has questions = 0; it must be at least 1"),
        (CONTEXTUAL, "rows", "chunk_tokens = [4, 9]", "none is known to answer; set gold = false in the stage"),
        (
            CONTEXTUAL,
            "rows",
            "chunk_tokens = [4]",
            "chunk_tokens = [4]; it must be smallest and largest number of tokens",
        ),
        (CONTEXTUAL, "rows", "chunk_tokens = [9, 4]", "chunk_tokens = [9, 4]; it must be smallest and largest"),
        (CONTEXTUAL, "rows", "chunk_tokens = [0, 4]", "smallest and largest number of tokens, at least 1"),
        (
            CONTEXTUAL,
            "rows",
            "symmetric = true",
            "is symmetric, which compares documents with all queries of the batch",
        ),
        (CONTEXTUAL, "rows", "in_batch = false", "rows of a contextual stage have no negatives of their own"),
        (PAIRS, "pairs", "in_batch = false", "rows of a pair stage have no negatives of their own"),
        (
            TRIPLET,
            "pairs",
            "in_batch = false\nsymmetric = true",
            "it is for pair and triplet stages and needs in_batch",
        ),
        (BASE, "", "symmetric = true", "source 'texts' of stage 'base' is symmetric"),
        (BASE, "", 'instruction = "find"', "is of kind 'text'; instruction is for others"),
        (TRIPLET, "pairs", 'instruction_format = "{query}"', "it must hold {instruction} and {query}"),
        (TRIPLET, "pairs", 'instruction_format = "{instruction}"', "has instruction_format = '{instruction}'"),
    ],
)
def test_sources_that_cannot_be(stage: str, kind: str, line: str, message: str, tmp_path: Path) -> None:
    if kind:
        assert message in refused(tmp_path, stage, line, of=kind)
    else:
        assert message in refused(tmp_path, stage, 'paths = ["texts.jsonl"]', line, old='paths = ["texts.jsonl"]\n')


def test_chunks_are_cut_anew_in_contextual_stages_only(tmp_path: Path) -> None:
    said = refused(tmp_path, PAIRS, 'kind = "rows"', "chunk_tokens = [4, 9]", old='kind = "pairs"\n')
    assert said.startswith(
        "source 'judged' of stage 'pairs' has chunk_tokens; only contextual stages read documents as"
    )


# What decides weights


def prints(recipe: Recipe) -> dict[str, str]:
    return {stage.name: recipe.fingerprint(stage) for stage in recipe.stage}


def test_a_merge_follows_all_of_its_parents(tmp_path: Path) -> None:
    before = prints(read(tmp_path, WHOLE))
    for stage, line, moved in (
        (CONTEXTUAL, "alpha = 0.3", {"contextual", "merged"}),
        (TRIPLET, "negatives = 3", {"triplet", "merged"}),
        (PAIRS, "temperature = 0.03", {"pairs", "contextual", "triplet", "merged", "free"}),
    ):
        after = prints(changed(tmp_path, stage, line))
        assert {name for name in before if before[name] != after[name]} == moved
    after = prints(
        changed(tmp_path, MERGED, 'parents = ["triplet", "contextual"]', old='parents = ["contextual", "triplet"]\n')
    )
    assert {name for name in before if before[name] != after[name]} == {"merged"}, "the order decides"


def test_judges_decide_only_where_there_is_a_choice(tmp_path: Path) -> None:
    fewer = SCORE.replace('contextual = ["chunks"]\n', "")
    before, after = prints(read(tmp_path, WHOLE)), prints(read(tmp_path, WHOLE.replace(SCORE, fewer)))
    assert {name for name in before if before[name] != after[name]} == {"merged"}
    one = WHOLE.replace("sweep = [0.2, 0.9]", "sweep = [0.2]")
    assert prints(read(tmp_path, one)) == prints(read(tmp_path, one.replace(SCORE, fewer)))


def test_what_is_mined_decides_too(tmp_path: Path) -> None:
    before = prints(read(tmp_path, WHOLE))
    after = prints(changed(tmp_path, TRIPLET, "last = 21", old="last = 20\n"))
    assert {name for name in before if before[name] != after[name]} == {"triplet", "merged"}


def test_what_memory_holds_decides_no_weight(tmp_path: Path) -> None:
    before = read(tmp_path, WHOLE)
    assert prints(changed(tmp_path, CONTEXTUAL, "memory_tokens = 9999", old="memory_tokens = 0\n")) == prints(before)
