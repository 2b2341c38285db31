"""The mask token of a backbone: chosen by name or id, and never one that the embedding table has no row for.

A converted model gets no new token, since the table would have to grow; a token that text hardly ever holds is put to
the new use, as pplx-embed did (arXiv 2602.11151).
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tokenizers import AddedToken, Tokenizer

from diffembed.errors import InputError, ModelError

# In the order of preference: a mask token, places kept free for later, tokens of features that plain text does not use.
_NAMES = (
    r"[<\[]\|?(?:mdm_)?mask\|?[>\]]",
    r".*(?:reserved_special_token|unused|extra_id|placeholder|control)_?\d+.*",
    r"<\|?(?:fim|vision|image|video|audio)_?pad\|?>",
)


def settle_mask_token(
    tokenizer: Tokenizer,
    rows: int,
    wanted: int | str | None,
    *,
    released: int | None = None,
    taken: Collection[int] = (),
) -> int:
    """The id of the mask token.

    Args:
        tokenizer: the model's.
        rows: of the embedding table.
        wanted: an id or a token; ``None`` takes the released id, else a rare token that the vocabulary has.
        released: the id that a diffusion checkpoint was trained with.
        taken: ids with another use (padding, end of text), which the mask must not share.

    Raises:
        InputError: ``wanted`` is no token, lies past the table or has another use.
        ModelError: the released id lies past the table, or no token is free.

    >>> from tokenizers import models
    >>> t = Tokenizer(models.WordLevel({"a": 0, "<|mask|>": 1, "<unused0>": 2, "<unused1>": 3}, unk_token="a"))
    >>> settle_mask_token(t, 4, None), settle_mask_token(t, 4, "a"), settle_mask_token(t, 4, None, taken=[1])
    (1, 0, 3)
    """
    if wanted is None:
        if released is None:
            return _rare_token(tokenizer, rows, taken)
        if not 0 <= released < rows:
            raise ModelError(
                f"the checkpoint's mask token {released} lies outside its embedding table of {rows} rows; "
                "give the id or the token as mask_token"
            )
        return released
    found = tokenizer.token_to_id(wanted) if isinstance(wanted, str) else wanted
    if found is None:
        raise InputError(f"mask_token {wanted!r} is not a token of the model; give one of its vocabulary, or an id")
    if not 0 <= found < rows:
        raise InputError(
            f"mask_token {wanted!r} (id {found}) lies outside the embedding table of {rows} rows: "
            f"the model has no vector for it; choose an id from 0 to {rows - 1}"
        )
    if found in taken:
        raise InputError(f"mask_token {wanted!r} (id {found}) already pads or ends texts; choose another token")
    return found


def _rare_token(tokenizer: Tokenizer, rows: int, taken: Collection[int]) -> int:
    special = {i for i, t in tokenizer.get_added_tokens_decoder().items()}
    free = {i: t for t, i in tokenizer.get_vocab(with_added_tokens=True).items() if i < rows and i not in taken}
    for pattern in _NAMES:
        if found := [i for i, token in free.items() if re.fullmatch(pattern, token, re.IGNORECASE)]:
            return max(found)
    # Merges are learned in the order of frequency, so the last word pieces are the rarest.
    pieces = [i for i, token in free.items() if i not in special and len(token) > 2 and not token.startswith("<")]
    if not pieces:
        raise ModelError("the vocabulary has no token to spare for the mask; name one as mask_token")
    return max(pieces)


def shield(tokenizer: Tokenizer, ids: Collection[int]) -> None:
    """Make added tokens special, so that ``load_tokenizer``'s rule holds: text that spells one is plain text."""
    added = tokenizer.get_added_tokens_decoder()
    plain = [added[i].content for i in sorted(ids) if i in added and not added[i].special]
    tokenizer.add_special_tokens([AddedToken(content, special=True, normalized=False) for content in plain])
