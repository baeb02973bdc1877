"""Conditions on items: a small language of our own, parsed here and written anew as SQL for Lance.

It has columns, values, comparison, `AND`, `OR`, `NOT`, `IN`, `LIKE`, `ILIKE`, `BETWEEN`, `IS NULL` and a few functions, with
the meaning that SQLite gives them. Nothing that a user writes reaches Lance as it stands, so whatever else Lance's SQL can
do (functions that ask for any amount of memory or time, columns that hold paths, hashes and vectors) cannot be asked for.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any, Literal, NoReturn, TypeAlias

import pyarrow as pa

from chiasm.errors import CollectionError
from chiasm.files import one_form
from chiasm.types import MODALITIES

LONGEST = 10_000  # characters of a condition
DEEPEST = 12  # brackets, functions and NOT within each other
MOST_TERMS = 500  # columns and values; beyond them, SQL takes seconds
LONGEST_PATTERN = 200  # characters of a pattern of LIKE
LISTED = 40  # columns that an error lists

Kind: TypeAlias = Literal["text", "integer", "number", "boolean", "date", "time", "list of texts", "files"]

_Value: TypeAlias = str | int | float | bool | datetime

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
    (?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")+"|`[^`]+`)
    |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<word>[^\W\d](?:\w|[^\x00-\x7f\s])*)
    |(?P<sign><=|>=|<>|!=|==|[=<>(),+-])
    |(?P<end>\Z))""",
    re.VERBOSE,
)
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_WORDS = frozenset({"AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE", "ESCAPE"})
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SAME = {"==": "=", "!=": "<>"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_FUNCTIONS: Mapping[str, tuple[int, Kind]] = {  # number of texts that they take, kind of what they give
    "lower": (1, "text"),
    "upper": (1, "text"),
    "length": (1, "integer"),
    "starts_with": (2, "boolean"),
    "ends_with": (2, "boolean"),
    "contains": (2, "boolean"),
}
_FAMILIES: Mapping[Kind, str] = {"integer": "number", "date": "time"}  # kinds that are compared with each other


def where_sql(where: str, schema: pa.Schema) -> str:
    """Return a user's condition as SQL for Lance.

    Args:
        where: what the user wrote.
        schema: of the table. The condition may be about its columns, except those whose names begin with `_`; of the files of
            an item it may ask only whether there are any (`image IS NOT NULL`).

    Raises:
        CollectionError: it is no condition on these columns, or too long. The message says where, and lists the columns.

    Example:
        >>> where_sql("year > 3.5 and label != 'owl'", pa.schema([("label", pa.string()), ("year", pa.int64())]))
        "((`year` > 3) AND (`label` <> 'owl'))"
    """
    where = one_form(where)  # as ids, labels and names of columns are stored
    kinds = {field.name: kind for field in schema if (kind := _kind_of(field)) is not None}
    try:
        return _Parser(where, kinds).parse()
    except _WrongError as error:
        at = "" if error.at is None else f" (at character {error.at + 1})"
        raise CollectionError(
            f"the condition {where[:200]!r} cannot be used: {error}{at}. {_columns(kinds)}. Text stands in single quotes: "
            "label = 'bird'. Names with spaces stand in double quotes"
        ) from None


def _kind_of(field: pa.Field) -> Kind | None:
    """Return what a column holds; None for columns that conditions are not about."""
    types = pa.types
    if field.name.startswith("_") or "`" in field.name:
        return None
    if field.name in MODALITIES:
        return "files"
    kinds: Sequence[tuple[Callable[[pa.DataType], bool], Kind]] = (
        (types.is_string, "text"),
        (types.is_integer, "integer"),
        (types.is_floating, "number"),
        (types.is_boolean, "boolean"),
        (types.is_date, "date"),
        (types.is_timestamp, "time"),
        (lambda one: bool(types.is_list(one) and types.is_string(one.value_type)), "list of texts"),
    )
    return next((kind for fits, kind in kinds if fits(field.type)), None)


def _columns(kinds: Mapping[str, Kind]) -> str:
    own = [f"{name} ({kind})" for name, kind in kinds.items() if kind != "files"]
    more = f" and {len(own) - LISTED} more" if len(own) > LISTED else ""
    files = [name for name, kind in kinds.items() if kind == "files"]
    asked = f"; of {', '.join(files)} only IS NULL and IS NOT NULL" if files else ""
    return f"Columns: {', '.join(own[:LISTED])}{more}{asked}"


class _WrongError(Exception):
    """Signal that a condition cannot be used, and at which character."""

    def __init__(self, problem: str, at: int | None = None) -> None:
        super().__init__(problem)
        self.at = at


@dataclass(frozen=True)
class _Token:
    kind: str  # the name of the group of `_TOKEN`
    text: str  # as it was written
    at: int  # its first character

    @property
    def word(self) -> str:
        """A word in upper case or a sign; empty for what stands in quotes."""
        return self.text.upper() if self.kind in ("word", "sign") else ""


@dataclass(frozen=True)
class _Term:
    """A part of a condition that has a value in every row."""

    kind: Kind
    sql: str
    shown: str  # for messages
    at: int
    value: _Value | None = None  # of what is written in the condition itself; of dates, too, a datetime

    @property
    def family(self) -> str:
        """Terms of one family can be compared."""
        return _FAMILIES.get(self.kind, self.kind)


def _tokens(where: str) -> Iterator[_Token]:
    at = 0
    while True:
        match = _TOKEN.match(where, at)
        if match is None:
            at = len(where) - len(where[at:].lstrip(" \t\r\n"))
            letter = where[at]
            quotes = {"'": "a single quote", '"': "a double quote", "`": "a backtick"}
            problem = f"{quotes[letter]} is not closed" if letter in quotes else f"{letter!r} means nothing here"
            raise _WrongError(problem, at)
        kind = str(match.lastgroup)
        yield _Token(kind, match[kind], match.start(kind))
        if kind == "end":
            return
        at = match.end()


class _Parser:
    """Recursive descent over the tokens of one condition."""

    def __init__(self, where: str, kinds: Mapping[str, Kind]) -> None:
        if len(where) > LONGEST:
            raise _WrongError(f"it has {len(where):,} characters, and {LONGEST:,} are the most")
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in where):
            raise _WrongError("it holds a character that is none (NUL, or half of a pair)")
        self._kinds = kinds
        self._tokens = tuple(_tokens(where))
        self._next = 0
        self._terms = 0

    def parse(self) -> str:
        """Return the SQL of the whole condition."""
        term = self._or(0)
        if self._token.kind != "end":
            raise _WrongError(f"{self._token.text!r} was not expected", self._token.at)
        return _condition(term).sql

    # ----------------------------------------------------------------------------------------------------- tokens

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *words: str) -> str | None:
        """Step over the next token if it is one of some words or signs, and return it."""
        word = self._token.word
        if word not in words:
            return None
        self._next += 1
        return word

    def _expect(self, word: str) -> None:
        if self._take(word) is None:
            came = repr(self._token.text) if self._token.text else "the end"
            raise _WrongError(f"{word} was expected, and {came} came", self._token.at)

    # ------------------------------------------------------------------------------------------------- conditions

    def _or(self, depth: int) -> _Term:
        return self._joined("OR", depth, self._and)

    def _and(self, depth: int) -> _Term:
        return self._joined("AND", depth, self._not)

    def _joined(self, word: str, depth: int, part: Callable[[int], _Term]) -> _Term:
        terms = [part(depth)]
        while self._take(word):
            terms.append(part(depth))
        if len(terms) == 1:
            return terms[0]
        return _boolean(f"({f' {word} '.join(_condition(term).sql for term in terms)})", terms[0].at)

    def _not(self, depth: int) -> _Term:
        self._check_depth(depth)
        at = self._token.at
        if self._take("NOT"):
            return _boolean(f"(NOT {_condition(self._not(depth + 1)).sql})", at)
        return self._predicate(depth)

    def _predicate(self, depth: int) -> _Term:
        left = self._operand(depth)
        if (sign := self._take(*_SIGNS, *_SAME)) is not None:
            return _boolean(_compared(left, _SAME.get(sign, sign), self._operand(depth)), left.at)
        if self._take("IS"):
            negated = "NOT " if self._take("NOT") else ""
            what = self._take("NULL", "TRUE", "FALSE")
            if what is None:
                raise _WrongError("NULL, TRUE or FALSE was expected after IS", self._token.at)
            if what != "NULL":
                _condition(left)
            return _boolean(f"({left.sql} IS {negated}{what})", left.at)
        negated = "NOT " if self._take("NOT") else ""
        match self._take("IN", "LIKE", "ILIKE", "BETWEEN"):
            case "IN":
                sql = self._in(left, depth)
            case "LIKE" | "ILIKE" as word:
                sql = self._like(left, word, depth)
            case "BETWEEN":
                low = self._operand(depth)
                self._expect("AND")
                high = self._operand(depth)
                sql = f"({_compared(left, '>=', low)} AND {_compared(left, '<=', high)})"
            case _ if negated:
                raise _WrongError("IN, LIKE, ILIKE or BETWEEN was expected after NOT", self._token.at)
            case _:
                return left
        return _boolean(f"(NOT {sql})" if negated else sql, left.at)

    def _in(self, left: _Term, depth: int) -> str:
        self._expect("(")
        values = [self._written(depth)]
        while self._take(","):
            values.append(self._written(depth))
        self._expect(")")
        if left.value is not None:
            return "true" if any(_compared(left, "=", value) == "true" for value in values) else "false"
        fitted = [_fitted(left, value) for value in values]
        some = [_literal(left.kind, low) for low, exact in fitted if exact]
        return f"({left.sql} IN ({', '.join(some)}))" if some else f"({left.sql} <> {left.sql})"

    def _like(self, left: _Term, word: str, depth: int) -> str:
        pattern = self._written(depth)
        escape = self._written(depth).value if self._take("ESCAPE") else None
        if left.kind != "text" or not isinstance(pattern.value, str):
            raise _WrongError(f"{word} compares text; got {_shown(left)} and {_shown(pattern)}", left.at)
        if len(pattern.value) > LONGEST_PATTERN:
            raise _WrongError(f"a pattern has at most {LONGEST_PATTERN} characters", pattern.at)
        if escape is not None and not (isinstance(escape, str) and len(escape) == 1):
            raise _WrongError("ESCAPE needs a single character in single quotes", pattern.at)
        sql, letters = "", iter(pattern.value)
        for letter in letters:
            plain = letter == escape
            one = next(letters, None) if plain else letter
            if one is None:
                raise _WrongError("the pattern ends in its escape character", pattern.at)
            sql += "\\" + one if one == "\\" or (plain and one in "%_") else one
        return f"({left.sql} {word} {_literal('text', sql)})"

    # --------------------------------------------------------------------------------------------------- operands

    def _written(self, depth: int) -> _Term:
        """Return a value that is written in the condition."""
        term = self._operand(depth)
        if term.value is None:
            raise _WrongError(f"a value was expected, and {term.shown} came", term.at)
        return term

    def _operand(self, depth: int) -> _Term:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise _WrongError(f"it has more than {MOST_TERMS} columns and values")
        token = self._token
        if token.kind == "end":
            raise _WrongError("it ends too early", token.at)
        self._next += 1
        if token.word in ("+", "-") and self._token.kind == "number":
            self._next += 1
            return self._number(self._tokens[self._next - 1].text, token)
        if token.word == "(":
            self._check_depth(depth + 1)
            inner = self._or(depth + 1)
            self._expect(")")
            return inner
        if token.kind == "number":
            return self._number(token.text, token)
        if token.kind == "text":
            return _value("text", one_form(token.text[1:-1].replace("''", "'")), token)
        if token.word in ("TRUE", "FALSE"):
            return _value("boolean", token.word == "TRUE", token)
        if token.word in ("DATE", "TIMESTAMP") and self._token.kind == "text":
            text = self._token
            self._next += 1
            moment = _moment(text.text[1:-1], text.at)
            day = token.word == "DATE"
            return (
                _value("date", datetime.combine(moment.date(), time()), text) if day else _value("time", moment, text)
            )
        if token.kind == "word" and self._token.word == "(" and token.word not in _WORDS:
            return self._function(token, depth + 1)
        return self._column(token)

    def _number(self, text: str, token: _Token) -> _Term:
        sign = -1 if token.word == "-" else 1
        if text.isdigit() and len(text) < 20 and -(2**63) <= sign * int(text) < 2**63:
            return _value("integer", sign * int(text), token)
        if math.isinf(float(text)):
            raise _WrongError(f"the number {text[:30]} is too large", token.at)
        return _value("number", sign * float(text), token)

    def _column(self, token: _Token) -> _Term:
        if token.word == "NULL":
            raise _WrongError("nothing equals NULL: write IS NULL or IS NOT NULL", token.at)
        if token.word in _WORDS or token.kind == "sign":
            what = " (a column of this name stands in double quotes)" if token.kind == "word" else ""
            raise _WrongError(f"{token.text!r} was not expected{what}", token.at)
        name = token.text
        if token.kind == "quoted":
            name = name[1:-1].replace('""', '"') if name[0] == '"' else name[1:-1]
        name = one_form(name)
        if name not in self._kinds:
            raise _WrongError(f"there is no column {name[:100]!r}", token.at)
        return _Term(self._kinds[name], f"`{name}`", repr(name), token.at)

    def _function(self, token: _Token, depth: int) -> _Term:
        name = token.text.lower()
        if name not in _FUNCTIONS:
            raise _WrongError(f"there is no function {token.text[:100]!r}; there are {', '.join(_FUNCTIONS)}", token.at)
        self._check_depth(depth)
        count, kind = _FUNCTIONS[name]
        self._expect("(")
        terms = [self._operand(depth)]
        while self._take(","):
            terms.append(self._operand(depth))
        self._expect(")")
        if len(terms) != count:
            raise _WrongError(f"{name} takes {count}, and {len(terms)} came", token.at)
        first, rest = terms[0], terms[1:]
        in_list = name == "contains" and first.kind == "list of texts"
        for term in rest if in_list else terms:
            if term.kind != "text":
                raise _WrongError(f"{name} takes text; got {_shown(term)}", term.at)
        call = "array_has" if in_list else name
        return _Term(kind, f"{call}({', '.join(term.sql for term in terms)})", f"{name}(...)", token.at)

    def _check_depth(self, depth: int) -> None:
        if depth > DEEPEST:
            raise _WrongError(
                f"brackets, functions and NOT stand in each other more than {DEEPEST} deep", self._token.at
            )


# ------------------------------------------------------------------------------------------------------- comparison


def _boolean(sql: str, at: int) -> _Term:
    return _Term("boolean", sql, "a condition", at)


def _value(kind: Kind, value: _Value, token: _Token) -> _Term:
    return _Term(kind, _literal(kind, value), token.text[:100], token.at, value)


def _shown(term: _Term) -> str:
    return f"{term.shown} ({term.kind})"


def _condition(term: _Term) -> _Term:
    if term.kind != "boolean":
        raise _WrongError(f"{_shown(term)} is no condition: compare it with something", term.at)
    return term


def _compared(left: _Term, sign: str, right: _Term) -> str:
    """Return SQL that compares two terms, as exactly as their values are."""
    if left.value is not None and right.value is None:
        left, right, sign = right, left, _MIRRORED.get(sign, sign)
    if right.value is None:
        if left.family != right.family or left.kind in ("files", "list of texts"):
            _refuse(left, right)
        return f"({left.sql} {sign} {right.sql})"
    if left.value is not None:
        if left.family != right.family:
            _refuse(left, right)
        return "true" if _SIGNS[sign](left.value, right.value) else "false"
    low, exact = _fitted(left, right)
    if exact:
        return f"({left.sql} {sign} {_literal(left.kind, low)})"
    # No value of the column's kind equals the one that is written: `low` is the largest below it.
    upward = sign in (">", ">=")
    if sign in ("=", "<>") or low is None:
        return f"({left.sql} {'=' if sign == '<>' or upward else '<>'} {left.sql})"
    return f"({left.sql} {'>' if upward else '<='} {_literal(left.kind, low)})"


def _fitted(term: _Term, written: _Term) -> tuple[Any, bool]:
    """Return the largest value of a term's kind that is not above a written one, None for none, and whether they are equal."""
    value = written.value
    if term.family == "time" and isinstance(value, str):
        value = _moment(value, written.at)
    elif term.family != written.family or term.kind in ("files", "list of texts"):
        _refuse(term, written)
    low: Any = value
    if term.kind == "integer" and isinstance(value, float):
        low = min(math.floor(value), 2**63 - 1)
        low = None if low < -(2**63) else low
    elif term.kind == "number" and isinstance(value, int):
        low = float(value)
        low = math.nextafter(low, -math.inf) if low > value else low
    elif term.kind == "date" and isinstance(value, datetime):
        low = datetime.combine(value.date(), time())
    return low, low == value


def _refuse(left: _Term, right: _Term) -> NoReturn:
    for term in (left, right):
        if term.kind == "files":
            raise _WrongError(f"of {term.shown} it can only be asked whether there is any: {term.shown[1:-1]} IS NULL")
        if term.kind == "list of texts":
            raise _WrongError(f"{term.shown} holds lists: write contains({term.shown[1:-1]}, 'bird')", term.at)
    raise _WrongError(f"{_shown(left)} cannot be compared with {_shown(right)}", right.at)


def _moment(text: str, at: int) -> datetime:
    """Return a date or a time, of those with a zone in UTC, as collections have them."""
    try:
        if not _TIME.fullmatch(text):
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise _WrongError(
            f"{text[:100]!r} is no date: write 2024-05-31, or with a time 2024-05-31 08:00:00", at
        ) from None


def _literal(kind: Kind, value: Any) -> str:
    """Return a value as SQL."""
    match kind:
        case "integer" if value == -(2**63):  # its digits alone are no int64
            return f"({value + 1} - 1)"
        case "integer":
            return str(int(value))
        case "number":
            return repr(float(value))
        case "boolean":
            return "true" if value else "false"
        case "date":
            return f"date '{value.date().isoformat()}'"
        case "time":
            return f"timestamp '{value.isoformat(sep=' ', timespec='microseconds')}'"
        case _:
            return "'" + str(value).replace("'", "''") + "'"
