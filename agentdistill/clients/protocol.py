"""Our end of the session protocol: frames and values, written apart from the jail's end.

Everything that comes through here is hostile: lengths are checked before memory is taken, JSON is read
without extensions, every tag and every type is checked, and what a value is becomes plain Python data or
`Opaque` text. Guaranteed: `Frames.feed`, `parse` and `decode` either return or raise ProtocolError, in time
and memory bounded by the frame limit, and never run code that the other side chose. Not guaranteed: that a
value is true. Sets and dicts are limited in size (hash collisions are cheap to make).
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from agentdistill.types import Json, Opaque

PROTOCOL = 2
HEADER = struct.Struct(">II")  # body length, channel
MAX_FRAME = 8 << 20
MAX_ITEMS = 400_000
MAX_DEPTH = 60
MAX_DIGITS = 4_000
MAX_HARD_KEYS = 2_000  # keys and set members other than short strings: their hashes can be made to collide
_INTEGER = re.compile(r"-?[0-9]{1,4000}\Z")
_FLOAT = re.compile(r"-?(inf|nan|[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?)\Z", re.ASCII)
_DATES: dict[str, Any] = {"datetime": datetime.datetime, "date": datetime.date, "time": datetime.time}


class ProtocolError(Exception):
    """The other side sent what no honest interpreter sends."""


def frame(channel: int, message: Mapping[str, Json]) -> bytes:
    body = json.dumps(message).encode()
    return HEADER.pack(len(body), channel) + body


class Frames:
    """Bytes in, whole frames out."""

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The (channel, body) pairs that are complete. A length over the limit raises ProtocolError."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            size, channel = HEADER.unpack_from(self._buffer)
            if size > self._limit:
                raise ProtocolError(f"a frame of {size} bytes")
            end = HEADER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield channel, body


def _short_int(text: str) -> int:
    if len(text) > 20:
        raise ProtocolError("a bare integer that is too long")
    return int(text)


def _no_constant(text: str) -> Json:
    raise ProtocolError(f"bare {text}")


_READER = json.JSONDecoder(parse_int=_short_int, parse_constant=_no_constant)


def parse(body: bytes) -> dict[str, Json]:
    """One message: a JSON object. Lone surrogates in it have become question marks."""
    try:
        message = _READER.decode(body.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ProtocolError("a message that is no object")
    return message


def text(value: Json, limit: int) -> str:
    """A string of a message, cut and made encodable. Anything else is a ProtocolError."""
    if not isinstance(value, str):
        raise ProtocolError("no string where one belongs")
    return _clean(value[:limit])


def _clean(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def decode(data: Json) -> Any:
    """A tagged value as plain Python data, or Opaque."""
    return _Decoder().decode(data, 0)


class _Decoder:
    def __init__(self) -> None:
        self._items = 0
        self._hard_keys = 0

    def decode(self, data: Json, depth: int) -> Any:
        self._items += 1
        if self._items > MAX_ITEMS or depth > MAX_DEPTH:
            raise ProtocolError("a value that is too large or too deep")
        if data is None or isinstance(data, (bool, int)):
            return data
        if isinstance(data, float):
            if not math.isfinite(data):  # 1e999 is JSON
                raise ProtocolError("a bare float that is not finite")
            return data
        if isinstance(data, str):
            return _clean(data)
        if isinstance(data, list):
            return [self.decode(item, depth + 1) for item in data]
        if not isinstance(data, dict):
            raise ProtocolError("not a value")
        tag = data.get("$")
        if not isinstance(tag, str):
            raise ProtocolError("an object without a tag")
        if tag == "opaque":
            return Opaque(text(data.get("type"), 300), text(data.get("repr"), 4_000))
        value = data.get("v")
        if tag in ("tuple", "set", "frozenset", "dict"):
            if not isinstance(value, list):
                raise ProtocolError(f"a {tag} without its items")
            return self._container(tag, value, depth)
        if tag == "complex":
            if not (isinstance(value, list) and len(value) == 2):
                raise ProtocolError("a complex number without its two parts")
            return complex(_float(value[0]), _float(value[1]))
        if not isinstance(value, str):
            raise ProtocolError("a tag without its text")
        return _scalar(tag, value)

    def _container(self, tag: str, items: list[Json], depth: int) -> Any:
        try:
            if tag == "tuple":
                return tuple(self.decode(item, depth + 1) for item in items)
            if tag == "set":
                return {self._key(item, depth) for item in items}
            if tag == "frozenset":
                return frozenset(self._key(item, depth) for item in items)
            return {self._key(key, depth): self.decode(value, depth + 1) for key, value in items}
        except (TypeError, ValueError):
            raise ProtocolError(f"a {tag} with items it cannot have") from None

    def _key(self, data: Json, depth: int) -> Any:
        key = self.decode(data, depth + 1)
        if not (isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 20)):
            self._hard_keys += 1
            if self._hard_keys > MAX_HARD_KEYS:
                raise ProtocolError("too many keys that are no strings")
        return key


def _float(value: Json) -> float:
    if not (isinstance(value, str) and len(value) < 40 and _FLOAT.match(value)):
        raise ProtocolError("a float that is none")
    return float(value)


def _scalar(tag: str, value: str) -> Any:
    if tag == "int":
        if not _INTEGER.match(value):
            raise ProtocolError("an integer that is none")
        return int(value)
    if tag == "float":
        return _float(value)
    try:
        if tag == "bytes":
            return base64.b64decode(value, validate=True)
        if tag == "decimal" and len(value) <= MAX_DIGITS:
            return Decimal(value)
        if tag == "fraction":
            top, _, bottom = value.partition("/")
            if _INTEGER.match(top) and _INTEGER.match(bottom):
                return Fraction(int(top), int(bottom))
        if tag in _DATES and len(value) < 60:
            return _DATES[tag].fromisoformat(value)
    except (ValueError, binascii.Error, InvalidOperation, ZeroDivisionError):
        pass
    raise ProtocolError("a value of an unknown or broken kind")


def encode(value: Any, depth: int = 0) -> Json:
    """Data of ours as a tagged value. What is not plain data is sent as its text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if abs(value) < 1 << 53:
            return int(value)
        return {"$": "int", "v": str(value)} if value.bit_length() <= MAX_DIGITS * 3 else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$": "float", "v": str(float(value))}
    if depth > MAX_DEPTH // 2:
        return str(value)
    if isinstance(value, list):
        return [encode(item, depth + 1) for item in value]
    for base, tag in ((tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if isinstance(value, base):
            return {"$": tag, "v": [encode(item, depth + 1) for item in value]}
    if isinstance(value, Mapping):
        pairs = [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]
        return {"$": "dict", "v": pairs}
    if isinstance(value, (bytes, bytearray)):
        return {"$": "bytes", "v": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, complex):
        return {"$": "complex", "v": [repr(value.real), repr(value.imag)]}
    if isinstance(value, Decimal):
        return {"$": "decimal", "v": str(value)}
    if isinstance(value, Fraction):
        return {"$": "fraction", "v": f"{value.numerator}/{value.denominator}"}
    for name in ("datetime", "date", "time"):  # a datetime is a date
        if isinstance(value, _DATES[name]):
            return {"$": name, "v": value.isoformat()}
    if isinstance(value, Opaque):
        return {"$": "opaque", "type": value.type, "repr": value.repr}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), depth + 1)
    return {"$": "opaque", "type": type(value).__qualname__, "repr": str(value)}
