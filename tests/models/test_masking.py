"""The mask token: by name, by id, by default; never past the table, never one with another use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny import WIDTH, tiny_config, tiny_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from diffembed.errors import InputError, ModelError
from diffembed.models.checkpoint import ModelConfig, ready_tokenizer, save_model
from diffembed.models.masking import settle_mask_token, shield
from diffembed.models.pretrained import load_pretrained


def _tokenizer(*added: str, words: tuple[str, ...] = ("a", "b", "word", "rarest", "é")) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in added])
    return ready_tokenizer(tokenizer)


@pytest.mark.parametrize(
    ("added", "chosen"),
    [
        (("<|endoftext|>", "<|mask|>", "<|fim_pad|>"), "<|mask|>"),  # dllm's Qwen3
        (("<pad>", "<mask>", "<unused0>", "<unused1>"), "<mask>"),  # Gemma 3
        (("<|mdm_mask|>",), "<|mdm_mask|>"),  # LLaDA
        (("<|begin_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
         "<|reserved_special_token_1|>"),  # Llama 3
        (("<|endoftext|>", "<|placeholder1|>", "<|placeholder2|>"), "<|placeholder2|>"),  # Phi-3
        (("<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|fim_prefix|>", "<|fim_pad|>"), "<|fim_pad|>"),  # Qwen3
        (("<unk>", "<s>", "</s>"), "rarest"),  # Llama 2: nothing is kept free
    ],
)  # fmt: skip
def test_default_is_a_rare_existing_token(added: tuple[str, ...], chosen: str) -> None:
    tokenizer = _tokenizer(*added)
    rows = tokenizer.get_vocab_size()
    assert tokenizer.id_to_token(settle_mask_token(tokenizer, rows, None)) == chosen


def test_default_skips_tokens_past_the_table_and_tokens_in_use() -> None:
    tokenizer = _tokenizer("<unused0>", "<unused1>", "<|mask|>")  # ids 5, 6, 7
    assert settle_mask_token(tokenizer, 7, None) == 6
    assert settle_mask_token(tokenizer, 7, None, taken={6}) == 5
    with pytest.raises(ModelError, match="no token to spare"):
        settle_mask_token(_tokenizer(words=("a", "b")), 2, None)


def test_released_id_is_kept_unless_the_caller_names_another() -> None:
    tokenizer = _tokenizer("<|mask|>")
    assert settle_mask_token(tokenizer, 6, None, released=3) == 3
    assert settle_mask_token(tokenizer, 6, "word", released=3) == 2
    assert settle_mask_token(tokenizer, 8, 7) == 7  # a row that no token uses: tables are often padded
    with pytest.raises(ModelError, match="mask token 6 lies outside its embedding table of 6 rows"):
        settle_mask_token(tokenizer, 6, None, released=6)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("<|nope|>", "'<|nope|>' is not a token of the model"),
        ("<|mask|>", r"'<|mask|>' \(id 5\) lies outside the embedding table of 5 rows"),
        (5, "5 .* lies outside the embedding table of 5 rows: .* choose an id from 0 to 4"),
        (-1, "lies outside"),
        (1, "already pads or ends texts"),
    ],
)
def test_senseless_choice_is_one_line(wanted: Any, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as caught:
        settle_mask_token(_tokenizer("<|mask|>"), 5, wanted, taken={1})
    assert "\n" not in str(caught.value)


def test_text_cannot_mask_itself() -> None:
    tokenizer = _tokenizer("<|fim_pad|>")
    assert 5 in tokenizer.encode("a <|fim_pad|> b").ids  # as Qwen ships it
    shield(tokenizer, {5, 0})
    assert 5 not in tokenizer.encode("a <|fim_pad|> b").ids
    assert tokenizer.token_to_id("<|fim_pad|>") == 5


def test_text_cannot_spell_the_mask_that_was_chosen_for_a_model_directory(tmp_path: Path) -> None:
    tokenizer = _tokenizer("<|fim_pad|>")
    backbone = tiny_model(tiny_config("qwen3", vocab_size=20))
    save_model(tmp_path / "model", backbone, tokenizer, ModelConfig("tiny", (WIDTH,), 64, None, 0, 2))
    loaded = load_pretrained(tmp_path / "model", mask_token="<|fim_pad|>")
    assert loaded.mask_token_id == 5 and 5 not in loaded.tokenizer.encode("a <|fim_pad|> b").ids
