"""The `filter` of list requests: a small subset of AIP-160, comparisons joined by `AND`.

Pure: text in, comparisons out. What a comparison means in SQL is its store's business.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grpc

from meshkit.rpc.failure import Failure, FieldViolation

MAX_COMPARISONS = 16
"""More than any person writes; keeps the query that comes of it small."""


class Operator(enum.Enum):
    """How a field is held against a value."""

    HAS = ":"
    """The field contains the value, without regard to case."""
    EQUALS = "="
    DIFFERS = "!="


@dataclass(frozen=True, slots=True)
class Text:
    """Free text, such as a name: `:`, `=` and `!=` with a quoted or bare word."""


@dataclass(frozen=True, slots=True)
class Identifier:
    """Opaque text, such as an id: `=` and `!=` only."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few names, such as the states of a job: `=` and `!=`."""

    names: frozenset[str]

    @staticmethod
    def of(names: Iterable[str]) -> Choice:
        """Returns the choice among these names, which filters must spell exactly."""
        return Choice(frozenset(names))


FieldKind = Text | Identifier | Flag | Choice


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition of a filter."""

    field: str
    operator: Operator
    value: str | bool
    """A bool for a Flag, else text."""


class FilterError(ValueError):
    """A filter that cannot be read; `filter_failure` makes it a failure."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        """Offset of the first character that is wrong, from 0."""


def parse_filter(text: str, fields: Mapping[str, FieldKind]) -> tuple[Comparison, ...]:
    """Returns the comparisons of `text`, all of which must hold; none for a blank text.

    Grammar: `comparison {"AND" comparison}`, `comparison = field (":" | "=" | "!=") value`,
    `value = "quoted, with \\" and \\\\ escaped" | bare-word`.

    Raises:
        FilterError: the text breaks the grammar, or names a field, operator or value that `fields` does not allow.
    """
    if "\0" in text:  # Postgres cannot even compare with it
        raise FilterError("holds a NUL character", text.index("\0"))
    tokens = list(_tokens(text))
    comparisons: list[Comparison] = []
    position = 0
    while tokens[position].kind is not _Kind.END:
        if comparisons:
            _expect_and(tokens[position])
            position += 1
        if len(comparisons) == MAX_COMPARISONS:
            raise FilterError(f"has more than {MAX_COMPARISONS} conditions", tokens[position].position)
        comparisons.append(_comparison(tokens[position : position + 3], fields))
        position += 3
    return tuple(comparisons)


def filter_failure(error: FilterError) -> Failure:
    """Returns INVALID_ARGUMENT `FILTER_INVALID`; a row for a service's error table."""
    description = f"{error.message} (at character {error.position + 1})"
    return Failure(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        reason="FILTER_INVALID",
        message=f"filter: {description}",
        metadata={"field": "filter", "position": str(error.position)},
        field_violations=(FieldViolation("filter", description, "filter"),),
    )


class _Kind(enum.Enum):
    WORD = "a word"
    STRING = "a quoted text"
    OPERATOR = "an operator"
    END = "the end"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    text: str
    position: int


_TOKEN = re.compile(
    r"""\s*(?:(?P<word>[A-Za-z0-9_.*+@-]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<operator>!=|[:=])|(?P<end>\Z))""",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _tokens(text: str) -> Iterable[_Token]:
    offset = 0
    while True:
        match = _TOKEN.match(text, offset)
        if match is None:
            start = offset + len(text[offset:]) - len(text[offset:].lstrip())
            if text[start] == '"':
                raise FilterError("has a quoted text that does not end", start)
            raise FilterError(f"cannot be read from {text[start : start + 20]!r} on", start)
        kind = match.lastgroup or "end"
        value, start = match[kind], match.start(kind)
        if kind == "end":
            yield _Token(_Kind.END, "", start)
            return
        yield _Token(_Kind[kind.upper()], _ESCAPED.sub(r"\1", value[1:-1]) if kind == "string" else value, start)
        offset = match.end()


def _expect_and(token: _Token) -> None:
    if token.kind is _Kind.WORD and token.text == "AND":
        return
    if token.kind is _Kind.WORD and token.text.upper() in ("OR", "NOT"):
        raise FilterError(f"does not know {token.text}: join conditions by AND", token.position)
    raise FilterError("needs AND between two conditions", token.position)


def _comparison(tokens: list[_Token], fields: Mapping[str, FieldKind]) -> Comparison:
    kind = _field_kind(tokens[0], fields)
    name = tokens[0].text
    if tokens[1].kind is not _Kind.OPERATOR:
        raise FilterError(f"needs `:`, `=` or `!=` after {name}", tokens[1].position)
    operator = Operator(tokens[1].text)
    if operator is Operator.HAS and not isinstance(kind, Text):
        raise FilterError(f"cannot search within {name}: use `=` or `!=`", tokens[1].position)
    if tokens[2].kind not in (_Kind.WORD, _Kind.STRING):
        raise FilterError(f"needs a value after {name} {operator.value}", tokens[2].position)
    return Comparison(name, operator, _value(tokens[2], name, kind))


def _field_kind(token: _Token, fields: Mapping[str, FieldKind]) -> FieldKind:
    kind = fields.get(token.text) if token.kind is _Kind.WORD else None
    if kind is None:
        known = ", ".join(sorted(fields))
        found = repr(token.text) if token.text else token.kind.value
        raise FilterError(f"cannot start a condition with {found}: the fields are {known}", token.position)
    return kind


def _value(token: _Token, name: str, kind: FieldKind) -> str | bool:
    match kind:
        case Flag():
            if token.kind is not _Kind.WORD or token.text not in ("true", "false"):
                raise FilterError(f"needs true or false for {name}", token.position)
            return token.text == "true"
        case Choice(names):
            if token.text not in names:
                known = ", ".join(sorted(names))
                raise FilterError(f"does not know {token.text!r} for {name}: use {known}", token.position)
            return token.text
        case _:
            return token.text
