"""From a stage's sources to the packed batches of a step; a pure function of recipe and step number."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from diffembed.data.sources import PairSource, TextSource, schedule
from diffembed.models.lexical import TokenCounts
from diffembed.text.batching import IntArray, PackedBatch, TokenizedSequence, batches_by_tokens, pack
from diffembed.training.recipe import SourceConfig, StageConfig
from diffembed.training.tokenizer import EOT_ID

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
    """The sources of one stage, read once; ``text_batches`` and ``pair_batch`` give the data of any step."""

    def __init__(self, stage: StageConfig, tokenizer: Tokenizer, data_root: Path, seed: int) -> None:
        self.stage, self.tokenizer = stage, tokenizer
        self.seed = int(np.random.default_rng((seed, *stage.name.encode())).integers(2**31))
        self.sources: list[PairSource | TextSource] = [
            (PairSource if s.kind == "pairs" else TextSource).read(s.name, data_root, s.paths, self.seed + i)
            for i, s in enumerate(stage.source)
        ]
        self.choices = schedule([s.weight for s in stage.source], stage.steps, self.seed)
        sizes = np.array([s.batch or stage.batch for s in stage.source])
        self.batch_sizes = np.minimum(sizes, [len(s) for s in self.sources]) if stage.kind == "pair" else sizes
        self._ends = np.zeros((len(self.sources), stage.steps + 1), dtype=np.int64)
        for i in range(len(self.sources)):
            self._ends[i, 1:] = np.cumsum((self.choices == i) * self.batch_sizes[i])

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
        """Micro-batches of one language-model step: windows of ``sequence_tokens`` at random places of texts."""
        stage, choice = self.stage, int(self.choices[step])
        source = self.sources[choice]
        assert isinstance(source, TextSource)
        rng = np.random.default_rng((self.seed, step))
        length = stage.sequence_tokens
        count = max(1, -(-int(self.batch_sizes[choice]) // length))
        start = int(np.count_nonzero(self.choices[:step] == choice)) * count
        texts = [_window(t, length * 6, rng) for t in source.rows(start, count)]
        rows, _ = self._tokenize(texts, length - 1)
        sequences = [whole([*ids, EOT_ID]) for ids in rows if ids]
        groups = batches_by_tokens([len(s) for s in sequences], stage.micro_tokens)
        return [pack([sequences[i] for i in group]) for group in groups]

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
