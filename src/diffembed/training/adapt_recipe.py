"""The recipe of an adaptation: a short run over an existing model and the files of ``data/own_work.py``.

What stands in the recipe is what a run of ``diffembed train`` does again; the merge with the model that it begins from,
which is no stage, is ``adapt.py``'s.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffembed.data.jsonl import COMPRESSED
from diffembed.data.own_work import GROUPS, ROWS, TEXT
from diffembed.errors import InputError
from diffembed.models.checkpoint import ModelConfig

DIFFUSION, PAIRS = "diffusion", "pairs"
_ROWS = (".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class AdaptSettings:
    """How a model is adapted; the defaults are what ``docs/adapt.md`` gives the measurements for.

    Attributes:
        steps: of the contrastive stage; ``None``: as many as read every pair about twice, from 30 to 120.
        minutes: in place of ``steps``: about how long training may take, by a test of this machine's speed.
        diffusion: whether the folder's text is first learned by masked diffusion; ``None``: where the model can still
            fill in blanks, which contrastive training may have unlearned.
        batch: pairs of a step.
        lr: of the token table; the layers learn at ``layer_lr`` times that.
        general_weight: share of the steps that read general data, where some is given.
        span_weight: share that reads spans of the folder's text against the rest of it.
        distill_weight: of the pull towards the similarities of the starting model, where no general data is given.
        shares: of the adapted model in the merge with the starting model; one is chosen.
        most_loss: how much nDCG@10 the general sets may lose in the mean, on the questions that choose: the loss and
            its standard error together, so that few questions choose with more care.
        chunk_tokens: length of the chunks that are searched; ``None``: as an index has them.
        threads: 0: as many as there are.
    """

    steps: int | None = None
    minutes: float | None = None
    diffusion: bool | None = None
    batch: int = 96
    lr: float = 2e-4
    layer_lr: float = 0.2
    temperature: float = 0.05
    general_weight: float = 0.3
    span_weight: float = 0.3
    distill_weight: float = 0.0
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    most_loss: float = 0.01
    chunk_tokens: int | None = None
    seed: int = 1
    threads: int = 0

    def check(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            InputError: names the setting.
        """
        if self.steps is not None and self.minutes is not None:
            raise InputError(f"steps {self.steps} and minutes {self.minutes} were given; give one of them")
        for name in ("steps", "minutes", "batch", "lr", "layer_lr", "temperature", "chunk_tokens"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"{name} {value} was given; a number above 0 is needed")
        for name in ("general_weight", "span_weight"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)} was given; a share from 0 to below 1 is needed")
        if self.general_weight + self.span_weight >= 1:
            raise InputError("general_weight and span_weight leave nothing for the folder's own pairs; lower one")
        if not self.shares or not all(0 < share <= 1 for share in self.shares):
            raise InputError(f"shares {list(self.shares)} were given; shares above 0 and up to 1 are needed")


@dataclass(frozen=True, slots=True)
class GeneralData:
    """Data that is not the folder's: BEIR folders, of which the train side is read, and files of rows."""

    folders: tuple[Path, ...] = ()
    files: tuple[Path, ...] = ()


def general_data(paths: Sequence[str | Path]) -> GeneralData:
    """What each path is.

    Raises:
        InputError: one that is neither a BEIR folder nor a file of rows.
    """
    folders, files = [], []
    for given in paths:
        path = Path(given).resolve()
        if path.is_dir() and any((path / f"corpus.jsonl{suffix}").is_file() for suffix in ("", *COMPRESSED)):
            folders.append(path)
        elif path.is_file() and (path.suffix in _ROWS or path.name.endswith(tuple(f".jsonl{s}" for s in COMPRESSED))):
            files.append(path)
        else:
            raise InputError(
                f"{given} is no general data: give a folder in BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv), "
                "or a .jsonl or .parquet file of pairs"
            )
    return GeneralData(tuple(folders), tuple(files))


def recipe_text(
    name: str,
    checkpoint: Path,
    config: ModelConfig,
    settings: AdaptSettings,
    *,
    steps: int,
    diffusion_steps: int,
    general: GeneralData,
) -> str:
    """The recipe, as TOML. ``steps`` and ``diffusion_steps`` are those of the two stages; the second may have none."""
    head = {
        "name": name,
        "output": "run",
        "data_root": ".",  # the work folder, where the recipe stands
        "seed": settings.seed,
        "threads": settings.threads,
        "save_seconds": 120,
    }
    tables = [
        "# Made by `diffembed adapt`, which merges the result with the model that this begins from.",
        _table("[run]", head),
        _table("[model]", {"checkpoint": str(checkpoint), "max_tokens": config.max_tokens}),
    ]
    text = [TEXT]
    shared: dict[str, Any] = {"warmup": 10, "decay_share": 0.5, "lr": settings.lr, "layer_lr": settings.layer_lr}
    if diffusion_steps:
        stage = {"name": DIFFUSION, "kind": "diffusion", "steps": diffusion_steps, "batch": 8192, "windows": "random"}
        tables += [
            _table("[[stage]]", stage | {"sequence_tokens": min(256, config.max_tokens)} | shared),
            _table("[[stage.source]]", {"name": "text", "paths": text}),
        ]
    contextual = config.contextual
    stage = {"name": PAIRS, "kind": "contextual" if contextual else "pair", "steps": steps} | shared
    stage |= {"batch": max(2, settings.batch // 8) if contextual else settings.batch, "dims": list(config.dims)}
    stage |= {"temperature": settings.temperature, "quantize": config.quantizer}
    if config.quantizer != "none":
        stage["binary_weight"] = 0.2
    if (config.pooling, config.attention) != ("mean", "bidirectional"):
        stage |= {"pooling": config.pooling, "attention": config.attention}
    if settings.distill_weight:
        stage |= {"teacher": str(checkpoint), "distill": "kl", "distill_weight": settings.distill_weight}
        stage["teacher_temperature"] = settings.temperature
    tables.append(_table("[[stage]]", stage))
    tables += [_table("[[stage.source]]", source) for source in _sources(contextual, text, settings, general)]
    return "\n".join(tables)


def _sources(
    contextual: bool, text: list[str], settings: AdaptSettings, general: GeneralData
) -> list[dict[str, object]]:
    others = settings.general_weight if general.folders or general.files else 0.0
    spans = 0.0 if contextual else settings.span_weight
    own: dict[str, object] = {"name": "own", "kind": "rows", "weight": round(1 - others - spans, 6)}
    file = GROUPS if contextual else ROWS
    own |= {"paths": [file], "document_tokens": 1024 if contextual else 192}
    found = [own]
    if spans:
        sizes: dict[str, object] = {"query_tokens": 16, "document_tokens": 128}
        found.append({"name": "own-spans", "kind": "spans", "paths": text, "weight": spans} | sizes)
    kinds = (("general", "groups" if contextual else "pairs", general.folders), ("general-rows", "rows", general.files))
    given = [(name, kind, paths) for name, kind, paths in kinds if paths]
    for name, kind, paths in given:
        weight = round(others / len(given), 6)
        found.append({"name": name, "kind": kind, "paths": [glob.escape(str(p)) for p in paths], "weight": weight})
    return found


def _table(name: str, values: dict[str, object]) -> str:
    return "\n".join([name, *(f"{key} = {_toml(value)}" for key, value in values.items()), ""])


def _toml(value: object) -> str:
    """A value in TOML; its strings, numbers, booleans and lists are written as JSON's are.

    >>> _toml("a \\"b\\""), _toml([1, 2]), _toml(True), _toml(2e-4)
    ('"a \\\\"b\\\\""', '[1, 2]', 'true', '0.0002')
    """
    return json.dumps(value, ensure_ascii=False)
