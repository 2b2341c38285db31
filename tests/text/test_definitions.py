"""Source code by definition: each function or class begins a chunk, with what belongs to it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.text.blocks import Definitions
from diffembed.text.chunking import chunk_document
from diffembed.text.readers import SourceText


def words(texts: Sequence[str]) -> list[int]:
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in texts]


def cut(code: str, max_tokens: int = 200) -> list[str]:
    source = SourceText.plain(code, "code")
    chunks = chunk_document(source, count_tokens=words, max_tokens=max_tokens, strategy="code")
    return [chunk.text for chunk in chunks]


PYTHON = '''"""A module.

class names are written out here, and def is a word.
"""
import os

LIMIT = 3


# Adds two numbers.
@cache
def add(
    a,
    b,
):
    """Adds."""

    return a + b
class Owl:
    """Hunts."""

    eyes = 2

    def hunt(self):
        return self.eyes

    @property
    def hears(self):
        return True

if __name__ == "__main__":
    print(add(1, 2))
'''


def test_python() -> None:
    loose, add, owl, main = cut(PYTHON)
    assert loose.startswith('"""A module.')
    assert loose.endswith("LIMIT = 3")
    assert add.startswith("# Adds two numbers.\n@cache\ndef add(")
    assert add.endswith("return a + b")
    assert owl.startswith("class Owl:")
    assert owl.endswith("return True")
    assert main == 'if __name__ == "__main__":\n    print(add(1, 2))'


def test_a_class_over_the_limit_is_cut_at_its_methods() -> None:
    chunks = cut(PYTHON, 24)
    assert "    def hunt(self):\n        return self.eyes" in chunks
    assert "    @property\n    def hears(self):\n        return True" in chunks
    assert any(chunk.startswith("class Owl:") and chunk.endswith("eyes = 2") for chunk in chunks)


def test_a_long_function_is_cut_like_any_code() -> None:
    body = "".join(f"    step_{n} = {n}\n\n" for n in range(8))
    chunks = cut(f"def one():\n{body}\ndef two():\n    pass\n", 12)
    assert chunks[-1] == "def two():\n    pass"
    assert chunks[0].startswith("def one():\n    step_0 = 0")
    assert all(words([chunk])[0] <= 12 for chunk in chunks)
    assert not any("step_7" in chunk and "two" in chunk for chunk in chunks)


C = """\
#include <a.h>

static int
add(int a, int b)
{
  return a + b;
}

/* Hunts. */
void hunt(void) {
  if (x) {
  }
}
"""
GO = """\
package main

// Hunt hunts.
func (o *Owl) Hunt() int {
\treturn 1
}

type Owl struct {
\teyes int
}
"""
RUST = """\
use std::fmt;

#[derive(Debug)]
pub struct Owl {
    eyes: u8,
}

impl fmt::Display for Owl {
    fn fmt(&self) {}
}
"""
JAVASCRIPT = """\
import x from 'x';

export function hunt(a) {
  return a;
}
const hear = async (b) => {
  return b;
};
export default class Owl extends Bird {
}
"""
EXPECTED = {
    C: ["#include <a.h>", "static int\nadd(int", "/* Hunts. */\nvoid hunt"],
    GO: ["package main", "// Hunt hunts.\nfunc (o *Owl)", "type Owl struct"],
    RUST: ["use std::fmt;", "#[derive(Debug)]\npub struct Owl", "impl fmt::Display for Owl"],
    JAVASCRIPT: ["import x", "export function hunt", "const hear", "export default class Owl"],
    "class A\r\n  def b\r\n  end\r\nend\r\n\r\nmodule C\r\nend\r\n": ["class A", "module C"],
    "type: object\nclass: owl\nmodule: x\n\nrecord of all owls\n": ["type: object"],
    "x = 1\n\nprint('nothing is defined')\n": ["x = 1"],
}


@pytest.mark.parametrize("code", EXPECTED, ids=["c", "go", "rust", "javascript", "ruby with CRLF", "yaml", "none"])
def test_other_languages(code: str) -> None:
    chunks = cut(code)
    assert len(chunks) == len(EXPECTED[code])
    assert all(chunk.startswith(begin) for chunk, begin in zip(chunks, EXPECTED[code], strict=True))


def test_deep_nesting_takes_bounded_time() -> None:
    code = "".join(f"{' ' * depth}class A:\n" for depth in range(1400))  # a million characters
    start = time.process_time()
    chunks = cut(code)
    assert time.process_time() - start < 8  # most of a second; half a minute where every level reads all lines again
    assert "".join("".join(chunks).split()) == "".join(code.split())
    long = ("def f():\n" + "    x\n\n" * 300) * 1000
    assert len(cut(long)) == 2000
    assert time.process_time() - start < 16


LINES = ["def a():\n", "    x\n", "\n", "class B:\n", "  def c():\n", "# d\n", "}\n"]


@given(st.lists(st.sampled_from(LINES)), st.booleans())
def test_blocks_cover_the_text(lines: list[str], nested: bool) -> None:
    text = "".join(lines)
    units = Definitions(text).blocks(0, len(text), nested=nested)
    assert "".join(text[unit.start : unit.end] for unit in units) == text
    assert all(unit.start < unit.end for unit in units)
