"""From a stage's sources to the packed batches of a step; a pure function of recipe and step number."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from diffembed.data.census import Report
from diffembed.data.sources import LanguageMix, PairSource, read_texts, schedule
from diffembed.data.texts import Text, TextSource
from diffembed.models.lexical import TokenCounts
from diffembed.text.batching import IntArray, PackedBatch, TokenizedSequence, batches_by_tokens, pack
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.tokenizer import EOT_ID
from diffembed.training.windows import DocumentWindows

_CHARACTERS_PER_TOKEN = 10  # texts are cut to this many characters a token before tokenizing; ids are cut exactly


def whole(ids: list[int] | tuple[int, ...]) -> TokenizedSequence:
    """A sequence whose only span is all of it."""
    return TokenizedSequence(tuple(ids), ((0, len(ids)),))


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Queries and documents of one step, packed together in micro-batches.

    Attributes:
        packs: packed sequences, grouped by length.
        order: ``[2 B]`` where sequence i (queries first, then documents) stands in the concatenated packs.
        document_ids: ``[B]``.
        source: which source the batch came from.
        cut: how many documents were longer than the source's limit.
    """

    packs: tuple[PackedBatch, ...]
    order: IntArray
    document_ids: IntArray
    source: str
    cut: int

    @property
    def tokens(self) -> int:
        return sum(p.tokens for p in self.packs)


class StageData:
    """The sources of one stage; ``text_batches`` and ``pair_batch`` give the data of any step.

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
        self.seed = int(np.random.default_rng((seed, *stage.name.encode())).integers(2**31))
        self.sources = [_read(s, data_root, self.seed + i, cache, report) for i, s in enumerate(stage.source)]
        self.choices = schedule([s.weight for s in stage.source], stage.steps, self.seed)
        sizes = np.array([s.batch or stage.batch for s in stage.source])
        self.batch_sizes = np.minimum(sizes, [len(s) for s in self.sources]) if stage.kind == "pair" else sizes
        self._ends = np.zeros((len(self.sources), stage.steps + 1), dtype=np.int64)
        for i in range(len(self.sources)):
            self._ends[i, 1:] = np.cumsum((self.choices == i) * self.batch_sizes[i])
        self._windows = self._document_windows() if stage.windows == "all" else None
        if report:
            read = ", ".join(f"{name} {times:.3g} times" for name, times in self.epochs())
            report(f"{stage.name}: {stage.steps} steps read {read}")

    def _document_windows(self) -> DocumentWindows:
        streams = []
        total = sum(config.weight for config in self.stage.source)
        for config, source in zip(self.stage.source, self.sources, strict=True):
            assert not isinstance(source, PairSource)
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
            drawn = int(np.count_nonzero(self.choices == i)) * self._rows_of_a_step(i)
            if isinstance(source, PairSource):
                found.append((f"'{source.name}'", drawn / len(source)))
            else:
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
        return self.stage.source[int(self.choices[step])].name

    def text_origins(self, step: int) -> list[str]:
        """``SOURCE: FILE, line N`` of every text that a language-model step reads."""
        if self._windows:
            return [f"{name}: {text.origin}" for name, text in self._windows.texts(step)]
        return [f"{self.source_of(step)}: {text.origin}" for text in self._drawn(step)]

    def _tokenize(self, texts: list[str], limit: int) -> tuple[list[list[int]], int]:
        encodings = self.tokenizer.encode_batch_fast(
            [t[: limit * _CHARACTERS_PER_TOKEN] for t in texts], add_special_tokens=False
        )
        ids = [e.ids for e in encodings]
        cut = sum(len(i) > limit or len(t) > limit * _CHARACTERS_PER_TOKEN for i, t in zip(ids, texts, strict=True))
        return [i[:limit] for i in ids], cut

    def token_counts(self, texts: int = 24_000) -> TokenCounts:
        """How often the tokens stand in about ``texts`` documents, drawn evenly from the sources."""
        share = -(-texts // len(self.sources))
        in_documents, in_all = (np.zeros(self.tokenizer.get_vocab_size(), dtype=np.int64) for _ in range(2))
        read = 0
        for config, source in zip(self.stage.source, self.sources, strict=True):
            rows = source.rows(0, min(share, len(source)))
            documents = [row if isinstance(row, str) else row[1] for row in rows]
            for ids in self._tokenize(documents, config.document_tokens)[0]:
                tokens, times = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
                in_documents[tokens] += 1
                in_all[tokens] += times
            read += len(rows)
        return TokenCounts(in_documents, in_all, read)

    def text_batches(self, step: int) -> list[PackedBatch]:
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
            texts = [_window(text.text, length * 6, rng) for text in self._drawn(step)]
            rows, _ = self._tokenize(texts, length - 1)
            sequences = [whole([*ids, self.eot_token_id]) for ids in rows if ids]
        groups = batches_by_tokens([len(s) for s in sequences], self.stage.micro_tokens)
        return [pack([sequences[i] for i in group]) for group in groups]

    def _drawn(self, step: int) -> list[Text]:
        """The texts of a step that takes a window at random of each."""
        choice = int(self.choices[step])
        source = self.sources[choice]
        assert not isinstance(source, PairSource)
        count = self._rows_of_a_step(choice)
        start = int(np.count_nonzero(self.choices[:step] == choice)) * count
        return list(source.draws(start, count))

    def _rows_of_a_step(self, choice: int) -> int:
        size = int(self.batch_sizes[choice])
        return size if self.stage.kind == "pair" else max(1, -(-size // self.stage.sequence_tokens))

    def pair_batch(self, step: int) -> PairBatch:
        """The pairs of one step, all from one source."""
        choice = int(self.choices[step])
        config, source = self.stage.source[choice], self.sources[choice]
        start, count = int(self._ends[choice, step]), int(self.batch_sizes[choice])
        if isinstance(source, PairSource):
            rows = source.rows(start, count)
            queries, _ = self._tokenize([q for q, _, _ in rows], config.query_tokens)
            documents, cut = self._tokenize([d for _, d, _ in rows], config.document_tokens)
            ids = [n for _, _, n in rows]
        else:
            rng = np.random.default_rng((self.seed, step))
            texts = [_window(t, config.document_tokens * 6, rng) for t in source.rows(start, count)]
            windows, cut = self._tokenize(texts, config.document_tokens)
            queries, documents = _cut_spans(windows, config, rng)
            ids = list(range(len(windows)))
        kept = [i for i in range(len(ids)) if queries[i] and documents[i]]
        sequences = [whole(queries[i]) for i in kept] + [whole(documents[i]) for i in kept]
        groups = list(batches_by_tokens([len(s) for s in sequences], self.stage.micro_tokens))
        order = np.empty(len(sequences), dtype=np.int64)
        order[np.concatenate([np.array(g) for g in groups])] = np.arange(len(sequences))
        packs = tuple(pack([sequences[i] for i in group]) for group in groups)
        return PairBatch(packs, order, np.array([ids[i] for i in kept], dtype=np.int64), config.name, cut)


def _read(
    config: SourceConfig, data_root: Path, seed: int, cache: Path | None, report: Report | None
) -> PairSource | TextSource | LanguageMix:
    if config.kind == "pairs":
        return PairSource.read(config.name, data_root, config.paths, seed, report)
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


def _window(text: str, characters: int, rng: np.random.Generator) -> str:
    """A stretch of a long text, begun after white space where there is some nearby."""
    if len(text) <= characters:
        return text
    start = int(rng.integers(0, len(text) - characters // 2))
    space = text.find(" ", start, start + 40)
    return text[space + 1 if start and space >= 0 else start :][:characters]


def _cut_spans(
    windows: list[list[int]], config: SourceConfig, rng: np.random.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """A short span of each window as query; the window, with or without it, as document (inverse cloze task)."""
    queries, documents = [], []
    for ids in windows:
        longest = max(1, min(config.query_tokens, len(ids) // 2))
        length = int(rng.integers(min(3, longest), longest + 1))
        start = int(rng.integers(0, max(1, len(ids) - length + 1)))
        queries.append(ids[start : start + length])
        remove = len(ids) > 2 * length and rng.random() < config.remove_span
        documents.append(ids[:start] + ids[start + length :] if remove else ids)
    return queries, documents
