"""Filters as sentences, for the command line: ``lang = en and year >= 2020 and not path prefix src/``.

::

    filter     = term { "or" term }
    term       = factor { "and" factor }
    factor     = "not" factor | "(" filter ")" | condition
    condition  = field ("=" | "!=" | "<" | "<=" | ">" | ">=") value
               | field "prefix" value | field ["not"] "in" "(" value { "," value } ")"
    value      = number | true | false | null | word | 'text' | "text"

A word is made of letters, digits and ``_ . - / : @ + ~ *``; anything else goes into quotes, in which ``\\`` keeps the
next character as it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from diffembed.errors import InputError
from diffembed.index.filters import AllOf, AnyOf, Filter, Negation, Scalar, check_depth, condition

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign><=|>=|!=|=|<|>|\(|\)|,)|(?P<quoted>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[\w.\-/:@+~*]+))""",
    re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_SIGNS = {"=": "eq", "!=": "ne", "<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_CONSTANTS: dict[str, Scalar] = {"true": True, "false": False, "null": None}


class _Token(NamedTuple):
    kind: str  # "sign", "quoted", "word" or "end"
    text: str
    at: int


def parse_text(text: str) -> Filter:
    """The tree of a sentence.

    Raises:
        InputError: not a filter; the message says where and what was expected.

    >>> parse_text("year >= 2020 or tags in (a, 'b c')")
    AnyOf(parts=(Compare(field='year', op='>=', value=2020), OneOf(field='tags', values=('a', 'b c'))))
    """
    return _Parser(text).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._tokens()
        self.place = 0
        self.depth = 0

    def _tokens(self) -> list[_Token]:
        found: list[_Token] = []
        at, end = 0, len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at, end)
            if match is None or match.lastgroup is None:
                start = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                raise self._wrong(start, "a field, a value, a sign or a quoted text")
            found.append(_Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
            at = match.end()
        return [*found, _Token("end", "", end)]

    def _wrong(self, at: int, expected: str) -> InputError:
        rest = self.text[at:].strip()
        where = f"at {rest[:20]!r}" if rest else "at its end"
        return InputError(
            f"the filter {self.text!r} is wrong {where}: expected {expected}; e.g. lang = en and year >= 2020"
        )

    def _next(self) -> _Token:
        return self.tokens[self.place]

    def _take(self, *texts: str) -> bool:
        """Step over the next token if it is one of these signs or words (in any case)."""
        token = self._next()
        if token.kind in ("sign", "word") and token.text.lower() in texts:
            self.place += 1
            return True
        return False

    def parse(self) -> Filter:
        tree = self._either()
        if self._next().kind != "end":
            raise self._wrong(self._next().at, "'and', 'or' or the end")
        return tree

    def _either(self) -> Filter:
        parts = [self._both()]
        while self._take("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _both(self) -> Filter:
        parts = [self._factor()]
        while self._take("and"):
            parts.append(self._factor())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _factor(self) -> Filter:
        self.depth += 1
        check_depth(self.depth - 1)
        try:
            if self._take("not"):
                return Negation(self._factor())
            if self._take("("):
                tree = self._either()
                if not self._take(")"):
                    raise self._wrong(self._next().at, "')'")
                return tree
            return self._condition()
        finally:
            self.depth -= 1

    def _condition(self) -> Filter:
        name = self._next()
        if name.kind not in ("word", "quoted"):
            raise self._wrong(name.at, "a field")
        self.place += 1
        field = name.text if name.kind == "word" else _unquoted(name.text)
        token = self._next()
        if token.kind == "sign" and token.text in _SIGNS:
            self.place += 1
            return condition(field, _SIGNS[token.text], self._value())
        if self._take("prefix"):
            return condition(field, "prefix", self._text())
        if self._take("in"):
            return condition(field, "in", self._list())
        if self._take("not"):
            if self._take("in"):
                return Negation(condition(field, "in", self._list()))
            raise self._wrong(self._next().at, "'in'")
        raise self._wrong(token.at, "=, !=, <, <=, >, >=, 'prefix' or 'in'")

    def _list(self) -> list[Scalar]:
        if not self._take("("):
            raise self._wrong(self._next().at, "'(' and a list of values")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take(")"):
            raise self._wrong(self._next().at, "',' or ')'")
        return values

    def _value(self) -> Scalar:
        token = self._next()
        if token.kind == "word" and token.text.lower() in _CONSTANTS:
            self.place += 1
            return _CONSTANTS[token.text.lower()]
        if token.kind == "word" and _NUMBER.fullmatch(token.text):
            self.place += 1
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        return self._text()

    def _text(self) -> str:
        token = self._next()
        if token.kind not in ("word", "quoted"):
            raise self._wrong(token.at, "a value: a number, true, false, null, a word or a 'quoted text'")
        self.place += 1
        return token.text if token.kind == "word" else _unquoted(token.text)


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
