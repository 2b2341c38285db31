from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.text.sentences import safe_cut, safe_cut_after, sentences


def split(text: str, kind: str = "prose") -> list[str]:
    return [text[start:end] for start, end in sentences(text, kind)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        (
            "Mr. J. R. Smith paid $3.50, e.g. to Dr. Who. Then left.",
            ["Mr. J. R. Smith paid $3.50, e.g. to Dr. Who.", "Then left."],
        ),
        ("“Stop!” he said. “Go.” She went.", ["“Stop!”", "he said.", "“Go.”", "She went."]),
        ("梟は夜に狩る。「静かに！」雪だ。", ["梟は夜に狩る。", "「静かに！」", "雪だ。"]),
        ("他说：“走吧。”然后走了。为什么？", ["他说：“走吧。”", "然后走了。", "为什么？"]),
        ("यह एक है। वह दो है॥ तीन", ["यह एक है।", "वह दो है॥", "तीन"]),
        ("هل هذا سؤال؟ نعم.", ["هل هذا سؤال؟", "نعم."]),
        ("# Title\nText goes on\nover lines. End.", ["# Title", "Text goes on\nover lines.", "End."]),
        ("Intro:\n- one\n- two\n\nAfter", ["Intro:", "- one", "- two", "After"]),
        ("1. First thing\n2. Second thing", ["1. First thing", "2. Second thing"]),
        ("Wait... what? Yes…  Really.", ["Wait...", "what?", "Yes…", "Really."]),
        ("Version 3.11.2 is out. See a.b.c for more.", ["Version 3.11.2 is out.", "See a.b.c for more."]),
        ("One.\r\n\r\nTwo.\r\n", ["One.", "Two."]),
        ("Text goes on\r\nover lines.\r\nEnd.", ["Text goes on\r\nover lines.", "End."]),
        ("See (1. Below. Or 2. Above. In\n  3. Item", ["See (1.", "Below.", "Or 2.", "Above.", "In", "3. Item"]),
        ("  \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_line_of_code_is_a_sentence() -> None:
    assert split("def f(x):\n    return x. y\n\n\nf(1)\r\n", "code") == ["def f(x):", "return x. y", "f(1)"]


@given(st.text(alphabet=st.sampled_from('aZ1. 。！?"”」\r\n-#👧\u200d梟\u0301é')))
def test_sentences_cover_everything_but_blanks(text: str) -> None:
    spans = sentences(text)
    assert spans == sorted(spans)
    assert (
        "".join(text[s:e] for s, e in spans).split()
        == "".join(c for i, c in enumerate(text) if any(s <= i < e for s, e in spans)).split()
    )
    covered = {i for s, e in spans for i in range(s, e)}
    assert all(i in covered or c.isspace() for i, c in enumerate(text))
    assert all(text[s:e] == text[s:e].strip() and s < e for s, e in spans)


@pytest.mark.parametrize("whole", ["👩‍👩‍👧", "👍🏽", "e\u0301", "🇯🇵", "\r\n", "❤️", "नि"], ids=lambda text: ascii(text))
def test_no_cut_inside_what_a_reader_sees_as_one(whole: str) -> None:
    text = "ab" + whole + "cd"
    for at in range(3, 2 + len(whole)):
        assert safe_cut(text, at) == 2
    assert safe_cut(text, 2 + len(whole)) == 2 + len(whole)


@pytest.mark.parametrize("whole", ["👩‍👩‍👧", "e\u0301\u0301\u0301", "\r\n"], ids=lambda text: ascii(text))
def test_the_next_place_to_cut(whole: str) -> None:
    text = "ab" + whole + "cd"
    assert [safe_cut_after(text, at, 99) for at in range(3, 3 + len(whole))] == [2 + len(whole)] * len(whole)
    assert safe_cut_after(text, 3, 3) == 3


def test_flags_are_cut_between_pairs() -> None:
    assert [safe_cut("🇯🇵🇫🇷", at) for at in range(5)] == [0, 0, 2, 2, 4]
