"""The jail's end of the session protocol: frames, and values as tagged JSON.

Frames between client and supervisor are `length u32 | channel u32 | body`, between supervisor and an
interpreter `length u32 | type u8 | body`, lengths big-endian and without the header. Bodies are JSON;
channel 0 is the supervisor itself, any other number is one interpreter.

Values: null, true, false, strings, small ints, finite floats and lists are themselves; everything else
is an object {"$": tag, ...}. What is not plain data becomes {"$": "opaque", "type", "repr"}: an object
never crosses the wall, only text about it. Guaranteed: `encode` ends within its budget of items and
characters, apart from code of the object itself (`__repr__`, `__iter__` of a subclass), which runs under
the step's deadline. Not guaranteed: that a value is what the code says it is. It is decoded and checked
on the other side by code that shares nothing with this file.
"""

import binascii
import math
import struct
import sys

PROTOCOL = 2
STREAM = struct.Struct(">II")  # length, channel
NODE = struct.Struct(">IB")  # length, type
MESSAGE, FORK, READY = 1, 2, 3  # frame types between supervisor and interpreter
MAX_FROM_HOST = 128 << 20  # the client is trusted; the bound only catches a broken stream
MAX_FROM_NODE = 4 << 20
MAX_ITEMS = 100_000
MAX_CHARS = 1_000_000  # of one value, as counted here; larger values are sent as their repr
MAX_DIGITS = 4_000
MAX_DEPTH = 40
MAX_REPR = 2_000
SAFE_INT = 1 << 53


class TooLarge(Exception):
    """The value does not fit into one message."""


def encode_value(value):
    """Any object as JSON-ready data; falls back to an opaque text when it is too large."""
    try:
        return _Encoder().encode(value, 0)
    except TooLarge:
        return opaque(value, note="too large to hand over; starts with ")
    except RecursionError:
        return opaque(value)


def opaque(value, note=""):
    kind = type(value)
    name = getattr(kind, "__qualname__", "object")
    module = getattr(kind, "__module__", "")
    if isinstance(module, str) and module not in ("builtins", "__main__", ""):
        name = f"{module}.{name}"
    return {"$": "opaque", "type": str(name)[:200], "repr": note + safe_repr(value)}


def safe_repr(value, limit=MAX_REPR):
    """`repr` that survives a broken or endless one; what never returns is stopped by the deadline."""
    try:
        if type(value) is int and value.bit_length() > MAX_DIGITS * 3:
            return f"<an integer of about {int(value.bit_length() * math.log10(2)) + 1} digits>"
        if type(value) is str:
            text = repr(value[:limit])
        elif type(value) in (list, tuple, set, frozenset, dict) and len(value) > limit:
            text = f"<{type(value).__name__} of {len(value)} items>"
        else:
            text = repr(value)
        if not isinstance(text, str):
            raise TypeError
        text = "".join(text[:limit])
    except Exception as error:
        return f"<{str(type(value).__name__)[:100]} whose repr raised {type(error).__name__}>"
    return text


class _Encoder:
    def __init__(self):
        self.items = 0
        self.chars = 0

    def spend(self, chars):
        self.items += 1
        self.chars += chars
        if self.items > MAX_ITEMS or self.chars > MAX_CHARS:
            raise TooLarge

    def encode(self, value, depth):
        # Methods of the base classes are called, never those of a subclass that code has written.
        if value is None or value is True or value is False:
            self.spend(4)
            return value
        if isinstance(value, str):
            self.spend(str.__len__(value))
            return str.__str__(value)
        if isinstance(value, int):
            return self.integer(int.__index__(value))
        if isinstance(value, float):
            self.spend(20)
            number = float.__pos__(value)
            return number if math.isfinite(number) else {"$": "float", "v": float.__repr__(number)}
        if depth >= MAX_DEPTH:
            self.spend(100)
            return opaque(value)
        if isinstance(value, list):
            self.spend(2)
            return self.sequence(list.__iter__(value), depth)
        for base, tag in ((tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
            if isinstance(value, base):
                self.spend(20)
                return {"$": tag, "v": self.sequence(base.__iter__(value), depth)}
        if isinstance(value, dict):
            self.spend(20)
            pairs = [
                [self.encode(key, depth + 1), self.encode(item, depth + 1)]
                for key, item in list(dict.items(value))
            ]
            return {"$": "dict", "v": pairs}
        if isinstance(value, (bytes, bytearray)):
            data = bytes(value)
            self.spend(len(data) * 4 // 3)
            return {"$": "bytes", "v": binascii.b2a_base64(data, newline=False).decode()}
        if isinstance(value, complex):
            self.spend(40)
            return {"$": "complex", "v": [float.__repr__(value.real), float.__repr__(value.imag)]}
        return self.library(value, depth)

    def integer(self, number):
        if -SAFE_INT < number < SAFE_INT:
            self.spend(16)
            return number
        if number.bit_length() > MAX_DIGITS * 3:
            self.spend(100)
            return opaque(number)
        text = int.__repr__(number)
        self.spend(len(text))
        return {"$": "int", "v": text}

    def sequence(self, iterator, depth):
        return [self.encode(item, depth + 1) for item in list(iterator)]

    def library(self, value, depth):
        """Types of modules that may not be loaded: if the module isn't, the value isn't of it."""
        modules = sys.modules
        decimal, fractions = modules.get("decimal"), modules.get("fractions")
        if decimal is not None and type(value) is decimal.Decimal:
            text = str(value)
            if len(text) <= MAX_DIGITS:
                self.spend(len(text))
                return {"$": "decimal", "v": text}
        if fractions is not None and type(value) is fractions.Fraction:
            top, bottom = value.numerator, value.denominator
            if max(top.bit_length(), bottom.bit_length()) <= MAX_DIGITS * 3:
                text = f"{top}/{bottom}"
                self.spend(len(text))
                return {"$": "fraction", "v": text}
        datetime = modules.get("datetime")
        if datetime is not None and type(value) in (datetime.datetime, datetime.date, datetime.time):
            self.spend(40)
            return {"$": type(value).__name__, "v": value.isoformat()}
        numpy = modules.get("numpy")
        if numpy is not None:
            if isinstance(value, numpy.generic):
                plain = value.item()
                if not isinstance(plain, numpy.generic):
                    return self.encode(plain, depth + 1)
            elif isinstance(value, numpy.ndarray) and value.dtype.kind in "biufcSU":
                if value.size > MAX_ITEMS:
                    raise TooLarge
                return self.encode(value.tolist(), depth + 1)
        self.spend(100)
        described = opaque(value)
        self.spend(len(described["repr"]))
        return described


def decode_value(data):
    """What the client sends (`put`, answers of tools): trusted, so only the tags are looked at."""
    if isinstance(data, list):
        return [decode_value(item) for item in data]
    if not isinstance(data, dict):
        return data
    tag, value = data["$"], data.get("v")
    if tag == "dict":
        return {decode_value(key): decode_value(item) for key, item in value}
    if tag in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[tag](map(decode_value, value))
    if tag == "int":
        return int(value)
    if tag == "float":
        return float(value)
    if tag == "bytes":
        return binascii.a2b_base64(value)
    if tag == "complex":
        return complex(float(value[0]), float(value[1]))
    if tag == "decimal":
        from decimal import Decimal

        return Decimal(value)
    if tag == "fraction":
        from fractions import Fraction

        return Fraction(value)
    if tag in ("datetime", "date", "time"):
        import datetime

        return getattr(datetime, tag).fromisoformat(value)
    return data.get("repr", "")  # opaque
