"""What the documents say is so: README examples run, commands parse, links lead somewhere, recipe keys are named."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from tests.cli.invoke import parsed

from diffembed.doctor import BUNDLED

REPO = Path(__file__).parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "line", [line for block in blocks("bash") for line in block.splitlines() if line.startswith("diffembed ")]
)
def test_readme_command_parses(line: str) -> None:
    assert parsed(shlex.split(line, comments=True)[1:])


@pytest.mark.skipif(not (BUNDLED / "diffembed.json").exists(), reason="the embedded model has not been trained yet")
@pytest.mark.parametrize("code", blocks("python"), ids=str.split)
def test_readme_python_runs(code: str, tmp_path: Path) -> None:
    code = code.replace('Path("samples")', f"Path({str(REPO / 'docs')!r})")  # as real, and smaller
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPO / "src"), "XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    missing = []
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "bundled" in target and not (BUNDLED / "diffembed.json").exists():
            continue
        if not target.startswith("http") and not (document.parent / target).exists():
            missing.append(target)
    assert missing == []


def test_every_recipe_key_is_documented() -> None:
    from diffembed.training import configs

    said = (REPO / "docs" / "formats.md").read_text(encoding="utf-8").partition("## Recipe")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(\w+)`", said))
    tables = [
        configs.RunConfig,
        configs.TokenizerConfig,
        configs.ModelShape,
        configs.Converted,
        configs.StageConfig,
        configs.SourceConfig,
        configs.MineConfig,
        configs.ScoreConfig,
        configs.ExportConfig,
    ]
    keys = {f.name for table in tables for f in fields(table)} - {"source", "mine"}
    assert keys - named == set()
    kinds = {*get_args(configs.StageKind), *get_args(get_type_hints(configs.SourceConfig)["kind"])}
    assert kinds - named == set()
    assert {"[run]", "[[stage]]", "[[stage.source]]", "[stage.mine]"} <= set(re.findall(r"`(\[.*?\]+)`", said))


def test_every_key_of_a_study_is_documented() -> None:
    from diffembed.study import recipe

    said = (REPO / "docs" / "formats.md").read_text(encoding="utf-8").partition("## Study")[2].partition("\n## ")[0]
    tables = [
        recipe.GridConfig,
        recipe.SamplesConfig,
        recipe.AttentionConfig,
        recipe.OperationsConfig,
        recipe.MeasureConfig,
        recipe.SetConfig,
    ]
    keys = {f.name for table in tables for f in fields(table)} - {"set"}
    words = {*recipe.BACKBONES, *recipe.POOLINGS, *recipe.FAMILIES, *keys}
    assert words - set(re.findall(r"`([\w-]+)`", said)) == set()
    assert {f"[{f.name}]" for f in fields(recipe.Study)} <= set(re.findall(r"`(\[.*?\]+)`", said))


def test_every_key_of_a_model_is_documented() -> None:
    from diffembed.models.checkpoint import ModelConfig

    said = (REPO / "docs" / "formats.md").read_text(encoding="utf-8")
    assert {f.name for f in fields(ModelConfig)} - set(re.findall(r"`(\w+)`", said)) == set()
