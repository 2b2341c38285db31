"""The model card says what the run recorded, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffembed.models.checkpoint import read_model_config
from diffembed.training.card import model_card
from diffembed.training.run import run_recipe


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    from tests.training.conftest import write_run

    path = write_run(tmp_path_factory.mktemp("card"))
    report = run_recipe(path, report=lambda _: None)
    return report, Path(report.model)


def test_card_of_a_run(run) -> None:  # type: ignore[no-untyped-def]
    report, model = run
    text = (model / "README.md").read_text(encoding="utf-8")
    config = read_model_config(model)
    tokens = sum(s["training"]["tokens"] for s in [*config.manifest["earlier"], config.manifest])
    assert f"{tokens / 1e6:.1f} million tokens" in text
    assert "Vectors: 16, 32 dimensions" in text
    for stage, scores in report.stages.items():
        assert f"| {stage} | {scores['ndcg@10']['set']:.3f} |" in text
    assert f"{report.stages['diffusion']['held_out_after']['elbo_nats_per_token']:.3f}" in text
    assert "<!-- figures:" not in text


def test_card_of_an_exported_model_has_room_for_measured_scores(run) -> None:  # type: ignore[no-untyped-def]
    report, model = run
    text = model_card(read_model_config(model), report.stages, measured=True)
    assert "<!-- figures:quality-tiny\n" in text and text.endswith("<!-- /figures -->\n")
