"""The sources of a contrastive stage: ``batch`` gives the data of any step, a function of recipe, files and its number.

Every step reads one source, so that its negatives are of the positives' kind (pplx-embed, arXiv 2602.11151).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from diffembed.data.census import Report
from diffembed.data.example_sources import ExampleSource, read_examples
from diffembed.data.examples import Grouped
from diffembed.data.sources import LanguageMix, read_texts
from diffembed.data.texts import TextSource
from diffembed.models.lexical import TokenCounts
from diffembed.text.batching import readout
from diffembed.training.configs import SourceConfig, StageConfig
from diffembed.training.contrastive_batch import ContrastiveBatch, from_rows, from_tokens
from diffembed.training.cutting import tokenized, window
from diffembed.training.turns import Turns, stage_seed

Source = ExampleSource | TextSource | LanguageMix


class ContrastiveData:
    """The sources of one stage.

    Args:
        stage, data_root, seed: with the files, all that the batches depend on.
        end_token_id: stands between the chunks of a document.
        end_token_id, mask_token_id: one of them ends every text and chunk where the stage does not pool the mean.
        max_tokens: that the model reads.
        cache: a folder that keeps the counts of files from one run to the next (see ``count_files``).
        report: told of rows that are left out, of duplicates, and how often each source is read.

    Raises:
        InputError: a source that matches nothing or holds nothing, a file that is not whole, a row that is none.
    """

    def __init__(
        self,
        stage: StageConfig,
        tokenizer: Tokenizer,
        data_root: Path,
        seed: int,
        *,
        end_token_id: int,
        mask_token_id: int,
        max_tokens: int,
        cache: Path | None = None,
        report: Report | None = None,
    ) -> None:
        self.stage, self.tokenizer = stage, tokenizer
        self.end_token_id, self.max_tokens = end_token_id, max_tokens
        self._readout = list(readout(stage.pooling, end_token_id=end_token_id, mask_token_id=mask_token_id))
        self.seed = stage_seed(seed, stage)
        self.sources = [_read(s, data_root, self.seed + i, cache, report) for i, s in enumerate(stage.source)]
        counts = [
            min(config.batch or stage.batch, len(source))
            for config, source in zip(stage.source, self.sources, strict=True)
        ]
        self._turns = Turns(stage, counts, self.seed)
        if report:
            read = ", ".join(f"{name} {times:.3g} times" for name, times in self.epochs())
            report(f"{stage.name}: {stage.steps} steps read {read}")

    def epochs(self) -> list[tuple[str, float]]:
        """How often the stage draws as many rows as each source has."""
        return [(f"'{s.name}'", self._turns.drawn(i) / len(s)) for i, s in enumerate(self.sources)]

    @property
    def fingerprint(self) -> str:
        """Hash of what the sources hold: a run that goes on over other data would not be the run that was begun."""
        return hashlib.sha256(json.dumps([source.contents() for source in self.sources]).encode()).hexdigest()[:16]

    def batch(self, step: int) -> ContrastiveBatch:
        """The rows of one step, all from one source."""
        choice, start, count = self._turns.at(step)
        config, source = self.stage.source[choice], self.sources[choice]
        rng = np.random.default_rng((self.seed, step))
        if isinstance(source, TextSource | LanguageMix):
            return self._spans(config, source, start, count, rng)
        return from_rows(
            source.draws(start, count),
            self.stage,
            config,
            self._read,
            end_token_id=self.end_token_id,
            max_tokens=self.max_tokens,
            rng=rng,
        )

    def _spans(
        self, config: SourceConfig, source: TextSource | LanguageMix, start: int, count: int, rng: np.random.Generator
    ) -> ContrastiveBatch:
        drawn = list(source.draws(start, count))
        limit = min(config.document_tokens, self.max_tokens) - len(self._readout)
        longest = config.query_tokens - len(self._readout)
        windows, _ = self._tokenize([window(t.text, limit * 6, rng) for t in drawn], limit)
        spans = _cut_spans(windows, longest, config.remove_span, rng)
        queries, documents = (list(map(self._ended, cut)) for cut in spans)
        return from_tokens(queries, documents, config, origins=[t.origin for t in drawn], cut=0)

    def _read(self, texts: list[str], limit: int) -> tuple[list[list[int]], int]:
        """As ``_tokenize``, with the token that is pooled at the end of every text that has tokens."""
        found, cut = self._tokenize(texts, limit - len(self._readout))
        return list(map(self._ended, found)), cut

    def _ended(self, ids: list[int]) -> list[int]:
        return ids + self._readout if ids else ids

    def _tokenize(self, texts: list[str], limit: int) -> tuple[list[list[int]], int]:
        return tokenized(self.tokenizer, texts, limit)

    def token_counts(self, texts: int = 24_000) -> TokenCounts:
        """How often the tokens stand in about ``texts`` documents, drawn evenly from the sources."""
        share = -(-texts // len(self.sources))
        in_documents, in_all = (np.zeros(self.tokenizer.get_vocab_size(), dtype=np.int64) for _ in range(2))
        read = 0
        for config, source in zip(self.stage.source, self.sources, strict=True):
            documents = _documents(source, min(share, len(source)))
            for ids in self._tokenize(documents, config.document_tokens)[0]:
                tokens, times = np.unique(np.array(ids, dtype=np.int64), return_counts=True)
                in_documents[tokens] += 1
                in_all[tokens] += times
            read += len(documents)
        return TokenCounts(in_documents, in_all, read)


def _documents(source: Source, count: int) -> list[str]:
    if isinstance(source, TextSource | LanguageMix):
        return source.rows(0, count)
    rows = (drawn.example for drawn in source.draws(0, count))
    return ["\n".join(row.chunks) if isinstance(row, Grouped) else row.document for row in rows]


def _read(config: SourceConfig, data_root: Path, seed: int, cache: Path | None, report: Report | None) -> Source:
    size = config.shuffle_megabytes * 1_000_000
    if config.kind == "spans":
        return read_texts(
            config.name,
            data_root,
            config.paths,
            seed,
            languages=config.languages,
            shuffle_bytes=size,
            cache=cache,
            report=report,
        )
    assert config.kind != "text"  # the recipe was checked
    return read_examples(
        config.name,
        data_root,
        config.paths,
        seed,
        kind=config.kind,
        split_by=config.split_by,
        languages=config.languages or None,
        shuffle_bytes=size,
        bad_rows=config.bad_rows,
        cache=cache,
        report=report,
    )


def _cut_spans(
    windows: list[list[int]], query_tokens: int, remove_span: float, rng: np.random.Generator
) -> tuple[list[list[int]], list[list[int]]]:
    """A short span of each window as query; the window, with or without it, as document (inverse cloze task)."""
    queries, documents = [], []
    for ids in windows:
        longest = max(1, min(query_tokens, len(ids) // 2))
        length = int(rng.integers(min(3, longest), longest + 1))
        start = int(rng.integers(0, max(1, len(ids) - length + 1)))
        queries.append(ids[start : start + length])
        remove = len(ids) > 2 * length and rng.random() < remove_span
        documents.append(ids[:start] + ids[start + length :] if remove else ids)
    return queries, documents
