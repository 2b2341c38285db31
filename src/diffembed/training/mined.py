"""Hard negatives that a triplet stage mines with its parent model, once, before its first step."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from diffembed.data.mining import mine_negatives
from diffembed.data.negatives import MiningSettings
from diffembed.data.sources import expand
from diffembed.models.checkpoint import read_model_config
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.state import Report

FOLDER = "negatives"


def with_mined_negatives(
    stage: StageConfig, model: Path, data_root: Path, folder: Path, seed: int, *, mine: bool, report: Report
) -> StageConfig:
    """The stage with rows in place of its pairs: the same queries and documents, with negatives.

    Pairs that get none are left out; the report says how many.

    Args:
        model: the parent's directory, which mines.
        folder: the stage's; ``negatives/`` in it keeps a file for each BEIR folder, which a resumed run finds again.
            Its name ends in a hash of settings and parent: others mine anew.
        mine: False on the processes that wait for another one to do so.
    """
    assert stage.mine is not None  # the caller asked
    settings = MiningSettings(**asdict(stage.mine), seed=seed)
    made = [asdict(settings), read_model_config(model).manifest.get("stage_fingerprint")]
    sources: list[SourceConfig] = []
    for source in stage.source:
        if source.kind != "pairs":
            sources.append(source)
            continue
        files = []
        for data in expand(data_root, source.paths):
            key = hashlib.sha256(json.dumps([*made, os.path.relpath(data, data_root)]).encode()).hexdigest()[:8]
            file = folder / FOLDER / f"{source.name}-{data.resolve().name}-{key}.jsonl"
            if mine and not file.is_file():
                file.parent.mkdir(parents=True, exist_ok=True)
                for left in file.parent.glob(f".{glob.escape(file.name)}.mining-*"):  # by a run that was killed
                    shutil.rmtree(left, ignore_errors=True)
                found = mine_negatives(data, file, model=str(model), split="train", settings=settings)
                report(f"{stage.name}: {found}")
            files.append(glob.escape(str(file)))
        sources.append(replace(source, kind="rows", paths=tuple(files), split_by="query"))
    return replace(stage, source=tuple(sources), mine=None)
