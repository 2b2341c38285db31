"""Whole documents as windows: every token of every document once an epoch, in steps of about the same size.

Every step takes from each source its share of bytes: step n the bytes from ``n x share`` to ``(n + 1) x share`` of the
source's stream, a token counted at the bytes that it takes there on average. A document is tokenized whole and cut into
windows; a window belongs to the step in which its middle lies. So the windows of step n follow from n alone, in
whatever order steps are asked for, and no text has to be tokenized to find out where a step begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from diffembed.data.texts import Text, TextSource
from diffembed.errors import InputError

_PIECE = 100_000  # characters that are tokenized at once: the memory of a tokenizer is many times its text's
_SAMPLE_TEXTS, _SAMPLE_CHARACTERS = 256, 4_000


class DocumentWindows:
    """Windows of whole documents, mixed from several streams within every step.

    Args:
        streams: the texts, with the share of the tokens of every step that each is to give (summing to 1).
        batch: tokens a step, about.
        window: tokens of a sequence, at most.
        end_token_id: stands at the end of every document.
    """

    def __init__(
        self,
        streams: Sequence[tuple[TextSource, float]],
        tokenizer: Tokenizer,
        *,
        batch: int,
        window: int,
        end_token_id: int,
    ) -> None:
        self._tokenizer, self._window, self._end = tokenizer, window, end_token_id
        self.streams = tuple(stream for stream, _ in streams)
        self.bytes_per_step = tuple(batch * share * self._bytes_per_token(stream) for stream, share in streams)
        self._open: dict[int, tuple[int, list[int]]] = {}

    def sequences(self, step: int) -> list[list[int]]:
        """Token ids of the windows of one step."""
        found: list[list[int]] = []
        for number in range(len(self.streams)):
            start, end = self._range(number, step)
            texts = list(self.streams[number].documents(start, end))
            for text, ids in zip(texts, self._tokens(number, texts, end), strict=True):
                found += (ids[a:b] for a, b, middle in self._cut(text, len(ids)) if start <= middle < end)
        return found

    def texts(self, step: int) -> Iterator[tuple[str, Text]]:
        """The texts that a step takes windows of, with the name of their source; one at either end may give none."""
        for number, stream in enumerate(self.streams):
            for text in stream.documents(*self._range(number, step)):
                yield stream.name, text

    def epochs(self, steps: int) -> list[float]:
        """How often each stream is read whole in so many steps."""
        return [steps * share / s.size for s, share in zip(self.streams, self.bytes_per_step, strict=True)]

    def _range(self, number: int, step: int) -> tuple[int, int]:
        return int(step * self.bytes_per_step[number]), int((step + 1) * self.bytes_per_step[number])

    def _cut(self, text: Text, tokens: int) -> Iterator[tuple[int, int, int]]:
        """First token, end and the middle byte (in the stream) of each window of a document."""
        count = -(-tokens // self._window) if tokens > 1 else 0  # the end token alone is no text
        for i in range(count):
            yield i * self._window, (i + 1) * self._window, text.begin + (2 * i + 1) * text.size // (2 * count)

    def _tokens(self, number: int, texts: list[Text], end: int) -> list[list[int]]:
        """The ids of each text, its end token included; those of a text that the next step goes on with are kept."""
        kept = self._open.pop(number, None)
        result = [kept[1] if kept and kept[0] == text.begin else list[int]() for text in texts]
        new = [i for i, ids in enumerate(result) if not ids]
        parts = [(i, piece) for i in new for piece in pieces(texts[i].text, _PIECE)]
        encoded = self._tokenizer.encode_batch_fast([piece for _, piece in parts], add_special_tokens=False)
        for (i, _), encoding in zip(parts, encoded, strict=True):
            result[i].extend(encoding.ids)
        for i in new:
            result[i].append(self._end)
        if texts and texts[-1].begin + texts[-1].size > end:
            self._open[number] = texts[-1].begin, result[-1]
        return result

    def _bytes_per_token(self, stream: TextSource) -> float:
        """Of a sample, the end token of every document counted."""
        texts = stream.sample(_SAMPLE_TEXTS)
        heads = [text[:_SAMPLE_CHARACTERS] for text in texts]
        encoded = self._tokenizer.encode_batch_fast(heads, add_special_tokens=False)
        tokens = sum(len(e.ids) + (len(h) == len(t)) for e, h, t in zip(encoded, heads, texts, strict=True))
        if not tokens:
            raise InputError(f"the tokenizer finds no token in source '{stream.name}'; is it the right tokenizer?")
        return sum(len(h.encode()) for h in heads) / tokens


def pieces(text: str, most: int) -> list[str]:
    """A text in pieces of at most ``most`` characters that make up the text, cut before white space where possible.

    >>> pieces("one two three", 9)
    ['one two', ' three']
    >>> pieces("onetwothree", 4)
    ['onet', 'woth', 'ree']
    """
    found = []
    start = 0
    while len(text) - start > most:
        cut = max(text.rfind(space, start + 1, start + most) for space in " \n\t")
        cut = cut if cut > start else start + most
        found.append(text[start:cut])
        start = cut
    return [*found, text[start:]]
