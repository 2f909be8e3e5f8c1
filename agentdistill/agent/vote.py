"""The vote of a self-consistent step: which results are the same, and which of them wins (METHOD 1.2).

Candidates agree if they have produced the same: what they printed, the value of their last expression, and
whether that is the final answer. A final answer ends the attempt and nobody reads what was printed beside it,
so final answers agree by their value alone.

What is the same:

- text, printed or not: white space and the addresses in `<object at 0x7f...>` do not matter, all else does;
- numbers: by value, whatever their type (1, 1.0, Fraction(1) and Decimal("1.00") are one), whole numbers
  exactly and others to 12 significant digits, which absorbs the order of float additions; nan is nan; a bool
  is no number. A final answer that is the text of a plain number is that number, as it is handed on as text;
- lists and tuples: by their items in order, both alike (so are numpy's arrays: they come as lists);
- sets, dicts: by content, whatever the order;
- Opaque: by type and text. Everything else, and what has more than MAX_ITEMS parts: only by being one object.

Guaranteed: sameness is an equivalence (it is equality of keys); a key costs time linear in the value, for all
values that cross the sandbox's wall; a winner has a largest group, and among largest ones the earliest
candidate; `decided` says True only if no result of the others could change the group that wins.
Not guaranteed: that the majority is right.
"""

from __future__ import annotations

import datetime
import math
import numbers
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal
from typing import Any, NamedTuple

from agentdistill.types import Execution, Opaque

MAX_ITEMS = 50_000
MAX_DEPTH = 100
_DIGITS = Context(prec=12, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[])
_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?[0-9]{1,300}(?:\.[0-9]{0,300})?", re.ASCII)


class Key(NamedTuple):
    """What a candidate has produced; equal keys are one result."""

    printed: str
    value: Hashable
    is_final: bool


def key(execution: Execution) -> Key | None:
    """What an execution has produced; None if it failed, which is no vote."""
    if execution.error is not None:
        return None
    if not execution.is_final:
        return Key(_text(execution.logs), canonical(execution.value), False)
    value = execution.value
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = Decimal(value.strip())
    return Key("", canonical(value), True)


def winner(keys: Mapping[int, Key | None]) -> int | None:
    """The first candidate of the largest group; None if none has a key. `keys` is by candidate."""
    groups = _groups(keys)
    return groups[0].first if groups else None


def votes(keys: Mapping[int, Key | None]) -> dict[int, int]:
    """By candidate, the size of its group: 0 for those that failed."""
    sizes = {group.key: group.size for group in _groups(keys)}
    return {index: sizes.get(found, 0) if found is not None else 0 for index, found in keys.items()}


def decided(keys: Mapping[int, Key | None], n: int) -> bool:
    """Whether the group that leads among `keys` will win, whatever the rest of n candidates will produce."""
    open_ones = [index for index in range(n) if index not in keys]
    groups = _groups(keys)
    if not open_ones or not groups:
        return not open_ones
    leader, *others = groups
    # A result that nobody has had yet is a rival without votes, whose first candidate is an open one.
    for size, first in [(0, n), *((group.size, group.first) for group in others)]:
        most = size + len(open_ones)
        if most > leader.size or (most == leader.size and min(first, open_ones[0]) < leader.first):
            return False
    return True


@dataclass
class _Group:
    key: Key
    first: int
    size: int = 0


def _groups(keys: Mapping[int, Key | None]) -> list[_Group]:
    """The groups, the winning one first."""
    groups: dict[Key, _Group] = {}
    for index in sorted(keys):
        found = keys[index]
        if found is not None:
            groups.setdefault(found, _Group(found, index)).size += 1
    return sorted(groups.values(), key=lambda group: (-group.size, group.first))


# ---------------------------------------------------------------------- sameness


class _TooLarge(Exception):
    pass


class _Itself:
    """Equal to nothing but itself: it stands for a value that cannot be compared. It keeps that alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def canonical(value: Any) -> Hashable:
    """A stand-in for a value that came out of a sandbox: equal for values that are the same."""
    try:
        return _Canon().of(value, 0)
    except _TooLarge:
        return _Itself(value)


class _Canon:
    """Every stand-in is a tuple that starts with its kind, so that no text can be taken for a number."""

    def __init__(self) -> None:
        self._items = 0

    def of(self, value: Any, depth: int) -> Hashable:
        self._items += 1
        if self._items > MAX_ITEMS or depth > MAX_DEPTH:
            raise _TooLarge
        if value is None or isinstance(value, bool):
            return "constant", str(value)
        if isinstance(value, str):
            return "text", _text(value)
        if isinstance(value, numbers.Number):
            return "number", _number(value)
        if isinstance(value, (list, tuple)):
            return "sequence", tuple([self.of(item, depth + 1) for item in value])
        if isinstance(value, (set, frozenset)):
            return "set", frozenset([self.of(item, depth + 1) for item in value])
        if isinstance(value, Mapping):
            pairs = [(self.of(name, depth + 1), self.of(item, depth + 1)) for name, item in value.items()]
            return "dict", frozenset(pairs)
        if isinstance(value, (bytes, bytearray)):
            return "bytes", bytes(value)
        if isinstance(value, (datetime.date, datetime.time)):
            return type(value).__name__, value.isoformat()
        if isinstance(value, Opaque):
            return "opaque", value.type, _text(value.repr)
        return _Itself(value)


def _text(text: str) -> str:
    """Every line without the white space that is not seen, no empty lines, no addresses."""
    lines = (" ".join(line.split()) for line in _ADDRESS.sub("at 0x", text).splitlines())
    return "\n".join(line for line in lines if line)


def _number(value: Any) -> Hashable:
    """A number that is equal, and hashes equally, for equal numbers of all types.

    Nothing here writes a number out: the digits of Decimal("1e999999999") would fill the memory.
    """
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, Decimal):
        if value.is_nan():
            return "nan"
        return value if value == value.to_integral_value() else _rounded(value)
    if isinstance(value, numbers.Rational):
        if value.denominator == 1:
            return int(value.numerator)
        return _DIGITS.divide(Decimal(int(value.numerator)), Decimal(int(value.denominator)))
    if isinstance(value, numbers.Real):
        number = float(value)
        if math.isnan(number):
            return "nan"
        return number if math.isinf(number) or number.is_integer() else _rounded(Decimal(number))
    if isinstance(value, numbers.Complex):
        if value.imag == 0:
            return _number(value.real)
        return _number(value.real), _number(value.imag)
    return _Itself(value)


def _rounded(value: Decimal) -> Decimal:
    return _DIGITS.plus(value)
