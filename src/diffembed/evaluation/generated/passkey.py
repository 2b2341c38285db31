"""Passkey: which of a hundred long documents, all of the same empty sentences, names this person's pass key?

The task of E5-Mistral (arXiv 2401.00368) as LongEmbed sizes it (arXiv 2404.12096): five sentences are repeated up to
the length, and somewhere among them one statement says who has which pass key. The persons and keys are ours, drawn
from a seed. Nothing but names and keys tells the documents apart, so a model that reads the whole text and keeps what
is rare in it finds them all, and one that cuts the text off finds no more than were left in.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from diffembed.evaluation.generated.draws import Draws
from diffembed.evaluation.generated.haystacks import (
    DOCUMENTS,
    LENGTHS,
    QUERIES,
    Haystack,
    Haystacks,
    build,
    check_lengths,
    insert,
)
from diffembed.evaluation.generated.names import people

# Characters of the published documents; they differ by some twenty within a length.
CHARACTERS = {
    256: 875,
    512: 1785,
    1024: 3607,
    2048: 7242,
    4096: 14518,
    8192: 29071,
    16384: 58174,
    32768: 116380,
}
_FILLER = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
_ROUND = sum(len(sentence) + 1 for sentence in _FILLER)


def passkeys(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> Haystacks:
    """All lengths (see :func:`passkey`)."""
    return Haystacks("passkey", check_lengths(lengths), lambda tokens: passkey(tokens, seed), {"seed": seed})


def passkey(tokens: int, seed: int = 0) -> Haystack:
    """The documents and questions of one length.

    Args:
        tokens: one of ``LENGTHS``.
        seed: another one gives other people, keys and places.

    Raises:
        InputError: a length that was not published.

    >>> hay = passkey(256)
    >>> list(hay.task.queries.items())[0], len(hay.task.texts[0])
    (('ctx256_query0', 'what is the passkey for Arturo Hoffmann?'), 880)
    >>> start, end = hay.statements[0]
    >>> hay.task.texts[0][start:end]
    "Arturo Hoffmann's pass key is 34783. Remember it. 34783 is the pass key for Arturo Hoffmann."
    """
    check_lengths([tokens])
    draws = Draws("passkey", tokens, seed)
    names = people(draws, DOCUMENTS)
    keys = [f"{10_000 + number:05}" for number in _different(draws, 90_000, DOCUMENTS)]
    depths = draws.depths(QUERIES) + draws.depths(DOCUMENTS - QUERIES)
    texts, places = [], []
    for name, key, depth in zip(names, keys, depths, strict=True):
        statement = f"{name}'s pass key is {key}. Remember it. {key} is the pass key for {name}."
        text, place = insert(_filler(CHARACTERS[tokens] - len(statement)), statement, depth)
        texts.append(text)
        places.append(place)
    questions = [f"what is the passkey for {name}?" for name in names[:QUERIES]]
    return build("passkey", tokens, texts, places, questions, [""] * QUERIES)


def _filler(characters: int) -> list[str]:
    """Whole sentences, which with a blank after each are as near to so many characters as they can be."""
    count = characters // _ROUND * len(_FILLER)
    left = characters % _ROUND
    for sentence in _FILLER:
        if left < (len(sentence) + 1) / 2:
            break
        left -= len(sentence) + 1
        count += 1
    return list(islice(cycle(_FILLER), count))


def _different(draws: Draws, below: int, count: int) -> list[int]:
    found: dict[int, None] = {}
    while len(found) < count:
        found[draws.below(below)] = None
    return list(found)
