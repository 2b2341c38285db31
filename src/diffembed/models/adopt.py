"""A model of another layout written as a model directory of ours, without torch: the step before its ONNX graphs.

The weights file is copied as it is; ``config.json`` becomes that of the stock class, and ``diffembed.json``, the
tokenizer and the small files of sentence-transformers are written from what ``models/foreign.py`` read.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from diffembed.errors import NotExportableError
from diffembed.models.checkpoint import (
    CONFIG_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    ModelConfig,
    default_card,
)
from diffembed.models.families import FAMILIES, opened
from diffembed.models.foreign import Source, read_foreign, read_tokenizer
from diffembed.models.modules_file import write_sentence_transformers_files


def adopt(source: Source, folder: Path) -> ModelConfig:
    """Write a model into an empty folder as a model directory of ours.

    Args:
        source: of kind ``stock`` or ``released``, its weights in one file under the names of the stock class.

    Raises:
        NotExportableError: any other source.
        ModelError: as ``read_foreign``.
    """
    layout, weights = source.layout, source.weights / WEIGHTS_FILE
    if layout is None or source.adapter is not None or layout.rename or not weights.exists():
        what = "a LoRA adapter over a base model" if source.adapter else "weights in several files or under other names"
        what = "a stack of sentence-transformers modules" if layout is None else what
        raise NotExportableError(f"{source.root} is {what}, which has no ONNX form here; use runtime='torch'")
    config = read_foreign(source)
    stock = {k: v for k, v in layout.stock.items() if k != "auto_map"}
    if layout.model_type in FAMILIES:
        stock |= opened(layout.model_type, layout.stock)
    stock |= {"model_type": layout.model_type}
    shutil.copyfile(weights, folder / WEIGHTS_FILE)
    (folder / "config.json").write_text(json.dumps(stock, indent=2) + "\n", encoding="utf-8")
    tokenizer = read_tokenizer(source.root)
    (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    named = source.weights / "tokenizer_config.json"
    if named.exists():
        shutil.copyfile(named, folder / named.name)
    (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
    write_sentence_transformers_files(folder, config)
    (folder / "README.md").write_text(default_card(config), encoding="utf-8")
    return config
