"""The texts of a stage that models language, as packed batches: a pure function of recipe and step number."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from diffembed.data.census import Report
from diffembed.data.sources import LanguageMix, read_texts
from diffembed.data.texts import Text, TextSource
from diffembed.text.batching import PackedBatch, TokenizedSequence, batches_by_tokens, pack
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.cutting import tokenized, window
from diffembed.training.tokenizer import EOT_ID
from diffembed.training.turns import Turns, stage_seed
from diffembed.training.windows import DocumentWindows


def whole(ids: list[int] | tuple[int, ...]) -> TokenizedSequence:
    """A sequence whose only span is all of it."""
    return TokenizedSequence(tuple(ids), ((0, len(ids)),))


class TextData:
    """The sources of one stage; ``batches`` gives the data of any step.

    Args:
        stage, data_root, seed: with the files, all that the batches depend on.
        eot_token_id: ends every document.
        cache: a folder that keeps the counts of corpus files from one run to the next (see ``count_files``).
        report: told of a corpus that takes long to count, of rows that are left out, and how often each source is read.

    Raises:
        InputError: a source that matches nothing or holds nothing, a file that is not whole, a line that is no record.
    """

    def __init__(
        self,
        stage: StageConfig,
        tokenizer: Tokenizer,
        data_root: Path,
        seed: int,
        *,
        eot_token_id: int = EOT_ID,
        cache: Path | None = None,
        report: Report | None = None,
    ) -> None:
        self.stage, self.tokenizer, self.eot_token_id = stage, tokenizer, eot_token_id
        self.seed = stage_seed(seed, stage)
        self.sources = [_read(s, data_root, self.seed + i, cache, report) for i, s in enumerate(stage.source)]
        counts = [max(1, -(-(source.batch or stage.batch) // stage.sequence_tokens)) for source in stage.source]
        self._turns = Turns(stage, counts, self.seed)
        self._windows = self._document_windows() if stage.windows == "all" else None
        if report:
            read = ", ".join(f"{name} {times:.3g} times" for name, times in self.epochs())
            report(f"{stage.name}: {stage.steps} steps read {read}")

    def _document_windows(self) -> DocumentWindows:
        streams = []
        total = sum(config.weight for config in self.stage.source)
        for config, source in zip(self.stage.source, self.sources, strict=True):
            streams += [(stream, config.weight / total * share) for stream, share in _streams(source)]
        stage = self.stage
        return DocumentWindows(
            streams, self.tokenizer, batch=stage.batch, window=stage.sequence_tokens, end_token_id=self.eot_token_id
        )

    def epochs(self) -> list[tuple[str, float]]:
        """How often the stage reads each source (of a mix, each language) whole, or draws as many rows as it has."""
        if self._windows:
            times = self._windows.epochs(self.stage.steps)
            return [(stream.label, often) for stream, often in zip(self._windows.streams, times, strict=True)]
        found: list[tuple[str, float]] = []
        for i, source in enumerate(self.sources):
            drawn = self._turns.drawn(i)
            found += [(stream.label, drawn * share / len(stream)) for stream, share in _streams(source)]
        return found

    @property
    def fingerprint(self) -> str:
        """Hash of what the sources hold: a run that goes on over other data would not be the run that was begun."""
        return hashlib.sha256(json.dumps([source.contents() for source in self.sources]).encode()).hexdigest()[:16]

    def source_of(self, step: int) -> str:
        """The source of the step's batch; of a batch that mixes several, their names joined by ``+``."""
        if self._windows and len(self.sources) > 1:
            return "+".join(config.name for config in self.stage.source)
        return self.stage.source[self._turns.at(step)[0]].name

    def origins(self, step: int) -> list[str]:
        """``SOURCE: FILE, line N`` of every text that a language-model step reads."""
        if self._windows:
            return [f"{name}: {text.origin}" for name, text in self._windows.texts(step)]
        return [f"{self.source_of(step)}: {text.origin}" for text in self._drawn(step)]

    def batches(self, step: int) -> list[PackedBatch]:
        """Micro-batches of one language-model step, the same however many processes share them.

        Sequences stand shortest first; ``micro_tokens`` says where batches end, never what follows what.

        With ``windows = "random"`` a window of ``sequence_tokens`` at a random place of each of ``batch /
        sequence_tokens`` texts of one source; with ``"all"`` every window of the documents whose turn it is, from all
        sources (see ``DocumentWindows``), which may be none in a step much smaller than a document.
        """
        if self._windows:
            sequences = [whole(ids) for ids in self._windows.sequences(step)]
        else:
            length = self.stage.sequence_tokens
            rng = np.random.default_rng((self.seed, step))
            texts = [window(text.text, length * 6, rng) for text in self._drawn(step)]
            rows, _ = tokenized(self.tokenizer, texts, length - 1)
            sequences = [whole([*ids, self.eot_token_id]) for ids in rows if ids]
        groups = batches_by_tokens([len(s) for s in sequences], self.stage.micro_tokens)
        return [pack([sequences[i] for i in group]) for group in groups]

    def _drawn(self, step: int) -> list[Text]:
        """The texts of a step that takes a window at random of each."""
        choice, start, count = self._turns.at(step)
        return list(self.sources[choice].draws(start, count))


def _read(
    config: SourceConfig, data_root: Path, seed: int, cache: Path | None, report: Report | None
) -> TextSource | LanguageMix:
    return read_texts(
        config.name,
        data_root,
        config.paths,
        seed,
        languages=config.languages,
        shuffle_bytes=config.shuffle_megabytes * 1_000_000,
        cache=cache,
        report=report,
    )


def _streams(source: TextSource | LanguageMix) -> list[tuple[TextSource, float]]:
    """A source as streams that have epochs of their own, with the share of each."""
    if isinstance(source, LanguageMix):
        return list(zip(source.streams, source.shares, strict=True))
    return [(source, 1.0)]
