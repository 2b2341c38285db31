"""What may be handed to a tokenizer: checked before any work, named by its number."""

from __future__ import annotations

from collections.abc import Sequence

from diffembed.errors import InputError


def check_texts(texts: Sequence[str], what: str, *, may_be_empty: bool = False) -> None:
    """Refuse what is no list of texts.

    Args:
        what: what a text is called in the message, before its number: ``text``, ``document 3, chunk``.
        may_be_empty: pass texts of nothing but blanks.

    Raises:
        InputError: one string instead of a list, something that is no string, an empty text, half a surrogate pair.

    >>> check_texts(["a", " "], "text")
    Traceback (most recent call last):
    ...
    diffembed.errors.InputError: text 1 is empty; leave it out, there is nothing to encode
    """
    if isinstance(texts, str):
        raise InputError(f"{what.split(',')[0]}s came as one string; give a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"{what} {i} is {type(text).__name__}, a string was expected")
        if not may_be_empty and not text.strip():
            raise InputError(f"{what} {i} is empty; leave it out, there is nothing to encode")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"{what} {i} has a lone surrogate (half a UTF-16 pair) at character {error.start}, which is no text; "
                "read its source as UTF-16, or replace it: text.encode('utf-8', 'replace').decode()"
            ) from None
