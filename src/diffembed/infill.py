"""Fill in the blanks of a text with a diffusion language model: what its pretraining has taught it.

Iterative denoising by confidence (as in MaskGIT, arXiv 2202.04200, and LLaDA, arXiv 2502.09992): every blank is a
number of mask tokens; the model reads the whole text both ways and predicts all of them, the surest predictions are
written down, and it reads again until nothing is masked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from diffembed.errors import InputError, ModelError
from diffembed.models.backbone import packed_states
from diffembed.models.checkpoint import CONFIG_FILE, read_model_config, ready_tokenizer
from diffembed.models.embedder import Embedder
from diffembed.models.files import fetch_model
from diffembed.models.pretrained import LoadedBackbone, load_pretrained
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack

_BLANK = re.compile(r"_{2,}|\[mask\]", re.IGNORECASE)
_DENOISERS = ("diffusion", "mntp")  # kinds of stages after which a model can fill in
_RELEASED = ("dream", "llada", "a2d")  # layouts of diffusion language models that others have released
_ALTERNATIVES = 5
_MAKE_ONE = "make one with: diffembed pretrain runs/cpu-tiny.toml"


@dataclass(frozen=True, slots=True)
class FilledToken:
    """One token that the model wrote: its probability, and the step (from 1) it was written in."""

    id: int
    text: str
    probability: float
    step: int


@dataclass(frozen=True, slots=True)
class FilledBlank:
    """One blank: what it became, and what else its first token could have been while nothing was written yet."""

    text: str
    tokens: tuple[FilledToken, ...]
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class InfillReport:
    """The text with its blanks filled."""

    text: str
    filled: str
    blanks: tuple[FilledBlank, ...]
    model: str
    steps: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values."""
        return asdict(self)


def infill(
    text: str,
    *,
    model: str | Path,
    tokens: Sequence[int] = (1,),
    steps: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> InfillReport:
    """Fill every blank of ``text``: two or more underscores in a row, or ``[mask]``.

    Args:
        model: a model directory whose last stage is of kind ``diffusion`` or ``mntp``, or a released diffusion
            checkpoint (directory or hub id).
        tokens: of each blank: one number for all, or one a blank.
        steps: forward passes; one a token by default, and never more.
        temperature: 0 takes the most probable token; above, tokens are drawn.
        seed: of the draws.

    Raises:
        InputError: no blank, an option out of range, a text longer than the model reads.
        ModelError: a model that is not a diffusion language model.
    """
    pieces = _BLANK.split(text)
    sizes = _sizes(pieces, tokens, steps, temperature)
    start = time.perf_counter()
    loaded = _load(model)
    layout = _Layout(pieces, sizes, loaded)
    written, ran = _denoise(loaded, layout, steps or sum(sizes), temperature, seed)
    return layout.report(text, written, str(model), ran, time.perf_counter() - start)


def newest_diffusion_model(folders: Sequence[Path]) -> Path:
    """The model directory written last below ``folders`` whose last stage was a denoising one.

    Raises:
        ModelError: there is none.
    """
    found = []
    for file in {f for folder in folders for f in folder.glob(f"**/{CONFIG_FILE}")}:
        try:
            kind = _last_kind(read_model_config(file.parent).manifest)
        except ModelError:  # not whole: `diffembed models` says why
            continue
        if kind in _DENOISERS:
            found.append((file.stat().st_mtime, file.parent))
    if not found:
        places = " and ".join(str(f) for f in folders)
        raise ModelError(f"no diffusion model below {places}; give one with --model, or {_MAKE_ONE}")
    return max(found)[1]


def _sizes(pieces: Sequence[str], tokens: Sequence[int], steps: int | None, temperature: float) -> list[int]:
    blanks = len(pieces) - 1
    if not blanks:
        raise InputError(
            "the text has no blank; write ____ (two underscores or more) or [mask] where the model should fill in"
        )
    if len(tokens) not in (1, blanks) or min(tokens) < 1:
        raise InputError(
            f"--tokens gives {', '.join(map(str, tokens))} for {blanks} blanks; give one number above 0 for all of "
            "them, or one for each"
        )
    if (steps is not None and steps < 1) or not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"steps {steps} and temperature {temperature}: give steps above 0, temperature 0 or above")
    return list(tokens) if len(tokens) == blanks else list(tokens) * blanks


def _last_kind(manifest: dict[str, Any]) -> str | None:
    """The kind of the stage that made the weights; ``None``: none is recorded."""
    kind = (manifest.get("objective") or {}).get("kind")
    return kind if isinstance(kind, str) else None


def _load(model: str | Path) -> LoadedBackbone:
    root = fetch_model(model)
    if (root / CONFIG_FILE).exists():
        config = read_model_config(root)
        kind = _last_kind(config.manifest)
        if kind not in _DENOISERS or config.mask_token_id is None:
            trained = {
                None: "records no diffusion training",
                "causal": "was trained to predict the next token only",
                "pair": "was trained on pairs last, and no longer as a language model",
            }.get(kind, f"was last trained by a stage of kind '{kind}', and has no mask token")
            raise ModelError(
                f"{model} {trained}, so it cannot fill in blanks; give the model of a diffusion stage, or {_MAKE_ONE}"
            )
    loaded = load_pretrained(model)
    if loaded.layout != "diffembed" and loaded.layout not in _RELEASED:
        raise ModelError(
            f"{model} is of type {loaded.layout}, not a diffusion language model, so it cannot fill in blanks; convert "
            'it with a diffusion stage ([model] checkpoint = "..." in a recipe), or give a Dream, LLaDA or a2d one'
        )
    return loaded


class _Layout:
    """Where the text's pieces and blanks stand in the token sequence."""

    def __init__(self, pieces: Sequence[str], sizes: Sequence[int], loaded: LoadedBackbone) -> None:
        self.tokenizer, self.shift = loaded.tokenizer, loaded.shift
        ids: list[int] = []
        self.kept: list[str] = []  # the pieces as they stand in the filled text
        self.places: list[range] = []  # token places of each blank
        tokenizers = [loaded.tokenizer, *[_continuing(loaded.tokenizer)] * len(sizes)]
        for i, piece in enumerate(pieces):
            # The tokens of most vocabularies begin with their space: the one before a blank is the blank's to write.
            last = i == len(sizes)
            self.kept.append(piece if last or not piece.endswith(" ") else piece[:-1])
            ids += tokenizers[i].encode(self.kept[-1], add_special_tokens=False).ids
            if not last:
                self.places.append(range(len(ids), len(ids) + sizes[i]))
                ids += [loaded.mask_token_id] * sizes[i]
        ids.append(loaded.eot_token_id)
        if self.shift and self.places[0].start == 0:
            raise InputError(
                "the text begins with a blank, and this model predicts a token from the state before it; write a word "
                "before the blank"
            )
        longest = int(loaded.model.config.max_position_embeddings)
        if len(ids) > longest:
            raise InputError(f"the text has {len(ids)} tokens, the model reads {longest}; shorten it")
        self.batch: PackedBatch = pack([TokenizedSequence(tuple(ids), ((0, len(ids)),))])

    def report(
        self,
        text: str,
        written: dict[int, tuple[FilledToken, tuple[tuple[int, float], ...]]],
        model: str,
        steps: int,
        seconds: float,
    ) -> InfillReport:
        """Put the written tokens back between the pieces."""
        ids = self.batch.token_ids.tolist()
        for place, (token, _) in written.items():
            ids[place] = token.id
        blanks = []
        for places in self.places:
            before = ids[: places.start]
            filled = tuple(dataclasses.replace(written[p][0], text=self._spelled(ids[:p], [ids[p]])) for p in places)
            others = tuple((self._spelled(before, [i]), p) for i, p in written[places.start][1])
            blanks.append(FilledBlank(self._spelled(before, [t.id for t in filled]), filled, others))
        spliced = self.kept[0] + "".join(b.text + piece for b, piece in zip(blanks, self.kept[1:], strict=True))
        return InfillReport(text, spliced, tuple(blanks), model, steps, round(seconds, 3))

    def _spelled(self, before: list[int], ids: list[int]) -> str:
        """What ids add to a text; alone, some decoders would drop their space."""
        text, longer = (_decoded(self.tokenizer, x) for x in (before, before + ids))
        return longer[len(text) :] if longer.startswith(text) else _decoded(self.tokenizer, ids)


def _continuing(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of text that goes on after a blank: it begins with a word only where it begins with a space.

    Metaspace vocabularies (Mistral v0.1, Phi-3) and some byte-level ones put a space before whatever they encode.
    """
    stored = json.loads(tokenizer.to_str())
    splitters = _steps(stored["pre_tokenizer"], "pretokenizers")
    normalizers = [n for n in _steps(stored["normalizer"], "normalizers") if n["type"] != "Prepend"]
    for splitter in splitters:
        if splitter["type"] == "Metaspace":
            splitter.pop("add_prefix_space", None)
            splitter["prepend_scheme"] = "never"
        elif splitter["type"] == "ByteLevel":
            splitter["add_prefix_space"] = False
    stored["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    return ready_tokenizer(Tokenizer.from_str(json.dumps(stored)))


def _steps(part: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """What a tokenizer's normalizer or pre-tokenizer does in order, whether it is one step or a sequence."""
    steps: list[dict[str, Any]] = [] if part is None else part[name] if part["type"] == "Sequence" else [part]
    return steps


def _decoded(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=False)
    return text


@torch.no_grad()
def _denoise(
    loaded: LoadedBackbone, layout: _Layout, steps: int, temperature: float, seed: int
) -> tuple[dict[int, tuple[FilledToken, tuple[tuple[int, float], ...]]], int]:
    """Every masked place's token, not spelled yet, with the alternatives it had at first; and the steps run."""
    embedder = Embedder(loaded.model, loaded.head).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    table = embedder.output_table()
    unwritable = _unwritable(loaded, table.shape[0])
    generator = torch.Generator().manual_seed(seed)
    batch = dataclasses.replace(layout.batch, token_ids=layout.batch.token_ids.copy())
    open_places = np.array([p for places in layout.places for p in places])
    steps = min(steps, len(open_places))
    first: dict[int, tuple[tuple[int, float], ...]] = {}
    written: dict[int, tuple[FilledToken, tuple[tuple[int, float], ...]]] = {}
    for step in range(1, steps + 1):
        rows = torch.from_numpy(open_places - int(loaded.shift)).to(table.device)
        logits_PV = (packed_states(embedder.backbone, batch)[rows] @ table.T).float().cpu()
        logits_PV[:, unwritable] = -torch.inf
        probabilities_PV = logits_PV.softmax(-1)
        if step == 1:
            top = probabilities_PV.topk(min(_ALTERNATIVES, logits_PV.shape[1]))
            pairs = (zip(i, p, strict=True) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True))
            first = {place: tuple(x) for place, x in zip(open_places.tolist(), pairs, strict=True)}
        if temperature:
            chosen_P = torch.multinomial((logits_PV / temperature).softmax(-1), 1, generator=generator)[:, 0]
        else:
            chosen_P = probabilities_PV.argmax(-1)
        sure_P = probabilities_PV.gather(1, chosen_P[:, None])[:, 0]
        count = math.ceil(len(open_places) / (steps - step + 1))
        surest = sure_P.sort(descending=True, stable=True).indices[:count].tolist()
        for i in surest:
            place, token = int(open_places[i]), int(chosen_P[i])
            batch.token_ids[place] = token
            written[place] = (FilledToken(token, "", float(sure_P[i]), step), first[place])
        open_places = np.delete(open_places, surest)
    return written, steps


def _unwritable(loaded: LoadedBackbone, rows: int) -> Tensor:
    """``[rows]`` bool: ids that are no text: the mask, padding, other special tokens, rows without a token."""
    special = {i for i, token in loaded.tokenizer.get_added_tokens_decoder().items() if token.special}
    special |= {loaded.mask_token_id, loaded.pad_token_id, loaded.eot_token_id}
    known = set(loaded.tokenizer.get_vocab(with_added_tokens=True).values())
    return torch.tensor([i in special or i not in known for i in range(rows)])
