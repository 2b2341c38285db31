"""The tokenizer of a from-scratch run: byte-level BPE over whole words, trained on a sample of the corpus.

Texts are NFC-normalised (and lower-cased where the recipe says so), split into words, digit runs and single marks,
and white space is dropped: a small vocabulary then spends one entry a word, not one for every case and position. Every
byte has a token, so no text is unknown. A word longer than 48 letters is split, which bounds the work on hostile input.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from diffembed.data.sources import read_texts
from diffembed.training.configs import TokenizerConfig

PAD, EOT, MASK = "[pad]", "[eot]", "[mask]"
PAD_ID, EOT_ID, MASK_ID = 0, 1, 2
_WORDS = r"[\p{L}\p{M}]{1,48}|\p{N}{1,3}|[^\s\p{L}\p{M}\p{N}]"


def train_tokenizer(config: TokenizerConfig, data_root: Path, seed: int) -> Tokenizer:
    """Train on texts drawn evenly from every path until ``max_characters`` is reached."""
    tokenizer = Tokenizer(models.BPE())
    steps: list[normalizers.Normalizer] = [normalizers.NFC()]
    if config.lowercase:
        steps.append(normalizers.Lowercase())
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        special_tokens=[PAD, EOT, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(config, data_root, seed), trainer=trainer)
    return tokenizer


def _sample(config: TokenizerConfig, data_root: Path, seed: int) -> Iterator[str]:
    share = config.max_characters // len(config.paths)
    for number, pattern in enumerate(config.paths):
        source = read_texts("tokenizer", data_root, [pattern], seed, part="all")
        left = share
        for draw in source.draws(number * len(source), len(source)):  # epoch ``number``: a pattern given twice differs
            if left <= 0:
                break
            text = draw.text[: min(left, 4000)]
            left -= len(text)
            yield text
