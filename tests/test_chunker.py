"""The door to chunking: strategies by name, limits, windows of tokens, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.conftest import make_tokenizer
from tests.text.fake_reader import FakeReader

from diffembed import Chunker, Encoder, InputError
from diffembed.text.chunking import STRATEGIES
from diffembed.text.readers import read_source

WORDS = " ".join(f"fox {word} dog" for word in "quick brown lazy cat reads about search engines".split())


def reader(**options: Any) -> FakeReader:
    return FakeReader(make_tokenizer(), **options)


def tokens(fake: FakeReader, text: str) -> list[str]:
    return [text[start:end] for start, end in fake.token_spans([text])[0]]


def test_windows_of_exactly_so_many_tokens() -> None:
    fake = reader(around=2)
    chunks = Chunker("fixed", max_tokens=9, encoder=fake).chunk(WORDS)
    assert fake.count_tokens([chunk.text for chunk in chunks])[:-1] == [9] * (len(chunks) - 1)
    assert "".join(chunk.text for chunk in chunks).replace(" ", "") == WORDS.replace(" ", "")


class Letters(FakeReader):
    """Every character that is not blank is a token."""

    def __init__(self) -> None:
        super().__init__(make_tokenizer())

    def token_spans(self, texts: Sequence[str]) -> list[Any]:
        return [np.array([(i, i + 1) for i, c in enumerate(t) if c.strip()], np.int64).reshape(-1, 2) for t in texts]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(spans) for spans in self.token_spans(texts)]


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_windows_share_so_many_tokens(overlap: int) -> None:
    chunks = Chunker("fixed", max_tokens=7, overlap=overlap, encoder=Letters()).chunk(WORDS)
    assert len(chunks) > 5
    assert {Letters().count_tokens([chunk.text])[0] for chunk in chunks[:-1]} == {7}
    for before, after in pairwise(chunks):
        assert Letters().count_tokens([WORDS[after.start : before.end]])[0] == overlap
    assert (chunks[0].start, chunks[-1].end) == (0, len(WORDS))


def test_windows_do_not_cut_a_character_of_several_tokens() -> None:
    fake = reader()
    text = "梟鼠雪" * 20
    assert len(tokens(fake, text)) > 2 * len(text)
    chunks = Chunker("fixed", max_tokens=8, encoder=fake).chunk(text)
    assert "".join(chunk.text for chunk in chunks) == text
    crlf = "owl\r\n" * 20
    for chunk in Chunker("fixed", max_tokens=3, encoder=fake).chunk(crlf):
        assert not crlf[chunk.end :].startswith("\n") or not chunk.text.endswith("\r")


def test_a_plain_text_is_read_as_what_the_strategy_is_for() -> None:
    markdown = "# A\n\nOne.\n\n# B\n\nTwo."
    code = "def a():\n    pass\ndef b():\n    pass\n"
    assert Chunker("markdown", encoder=reader()).split_text(markdown) == ["# A\n\nOne.", "# B\n\nTwo."]
    assert Chunker("code", encoder=reader()).split_text(code) == ["def a():\n    pass", "def b():\n    pass"]
    assert Chunker("structure", encoder=reader()).split_text(markdown) == [markdown]
    source = read_source(Path("a.py"), code.encode())
    assert len(Chunker("markdown", encoder=reader()).chunk(source)) == 1, "a file is read as what it is"
    assert len(Chunker("code", encoder=reader()).chunk(source)) == 2
    assert len(Chunker("code", encoder=reader()).chunk(code, kind="prose")) == 1
    with pytest.raises(InputError, match="read as code, not as prose"):
        Chunker(encoder=reader()).chunk(source, kind="prose")


def test_the_limit_is_what_the_model_reads() -> None:
    assert Chunker(encoder=reader()).max_tokens == 256
    assert Chunker(encoder=reader(max_tokens=100)).max_tokens == 100
    for wrong in (0, -1, 513):
        with pytest.raises(InputError, match=f"chunks of {wrong} tokens: fake reads 1 to 512"):
            Chunker(max_tokens=wrong, encoder=reader())


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="'semantic' is not known; choose one of structure, fixed, sentence"):
        Chunker("semantic", encoder=reader())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'sentence' has no overlap"):
        Chunker("sentence", overlap=2, encoder=reader())
    for wrong in (-1, 6):
        with pytest.raises(InputError, match=f"overlap of {wrong} tokens: give 0 to 5"):
            Chunker("fixed", max_tokens=10, overlap=wrong, encoder=reader()).chunk("a")
    with pytest.raises(InputError, match="lone surrogate.* at character 2"):
        Chunker(encoder=reader()).chunk("ab\ud800")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_real_model(strategy: Any, tiny_model_dir: Path, corpus: list[str]) -> None:
    encoder = Encoder.load(tiny_model_dir, threads=1)
    text = "\r\n\r\n".join(corpus)
    chunks = Chunker(strategy, max_tokens=40, encoder=encoder).chunk(text)
    assert len(chunks) >= 2
    assert all(0 < count <= 40 for count in encoder.count_tokens([chunk.text for chunk in chunks]))
    assert "".join("".join(chunk.text.split()) for chunk in chunks) == "".join(text.split())
    assert encoder.encode_chunks([[chunk.text for chunk in chunks]]).values.shape == (len(chunks), 64)
