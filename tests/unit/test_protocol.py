"""The codec and the framing: what honest ends send survives, what hostile ends send is refused in bounds."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import sys
import time
from decimal import Decimal
from fractions import Fraction
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentdistill.clients import protocol
from agentdistill.clients.protocol import Frames, ProtocolError
from agentdistill.services import service_folder
from agentdistill.types import Opaque


def jail_side() -> ModuleType:
    """sandbox/wire.py, loaded by its path: the two sides share no code, but must understand each other."""
    spec = importlib.util.spec_from_file_location("jail_wire", service_folder("sandbox") / "wire.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


wire = jail_side()
fuzz = settings(deadline=None, max_examples=150)

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=50)
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.fractions()
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(hashable, inner, max_size=5)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=20,
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "type", "repr", "x"]), inner, max_size=4)
        | st.fixed_dictionaries(
            {
                "$": st.sampled_from(
                    ["int", "float", "tuple", "set", "frozenset", "dict", "bytes", "complex", "decimal",
                     "fraction", "datetime", "date", "time", "opaque", "eval"]
                ),
                "v": inner,
            }
        )
    ),
    max_leaves=20,
)  # fmt: skip


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and (left == right or repr(left) == repr(right))


@fuzz
@given(values)
def test_what_the_jail_encodes_we_decode(value: Any) -> None:
    assert same(protocol.decode(json.loads(json.dumps(wire.encode_value(value)))), value)


@fuzz
@given(values)
def test_what_we_encode_the_jail_decodes(value: Any) -> None:
    assert same(wire.decode_value(json.loads(json.dumps(protocol.encode(value)))), value)


@fuzz
@given(values)
def test_we_decode_what_we_encode(value: Any) -> None:
    assert same(protocol.decode(protocol.encode(value)), value)


@fuzz
@given(json_values)
def test_any_json_decodes_to_plain_data_or_is_refused(data: Any) -> None:
    try:
        value = protocol.decode(data)
    except ProtocolError:
        return
    plain(value)


def plain(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            plain(key)
            plain(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            plain(item)
    else:
        module = type(value).__module__
        assert isinstance(value, Opaque) or module in ("builtins", "decimal", "fractions", "datetime")
    if isinstance(value, str):
        value.encode()


@fuzz
@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        assert isinstance(protocol.parse(body), dict)


@fuzz
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=100))), st.data())
def test_frames_come_out_whole_however_they_are_cut(
    sent: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(protocol.HEADER.pack(len(body), channel) + body for channel, body in sent)
    frames, got = Frames(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += list(frames.feed(stream[:cut]))
        stream = stream[cut:]
    assert got == sent


@fuzz
@given(st.binary(max_size=2000))
def test_any_stream_of_bytes_is_frames_or_refused(stream: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        for _, body in Frames(limit=1000).feed(stream):
            assert len(body) <= 1000


def test_a_length_over_the_limit_takes_no_memory() -> None:
    with pytest.raises(ProtocolError, match="a frame of 4294967295 bytes"):
        list(Frames().feed(b"\xff\xff\xff\xff\0\0\0\0"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"a":' * 500_000,
        b'{"a": NaN}',
        b'{"a": 1' + b"0" * 1_000_000 + b"}",
        b"\xff",
        b"[]",
        b"1",
        b"",
    ],
)
def test_json_that_is_no_message_is_refused_quickly(body: bytes) -> None:
    started = time.monotonic()
    with pytest.raises(ProtocolError):
        protocol.parse(body)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "data",
    [
        1e999,
        {"$": "int", "v": "1" * 5000},
        {"$": "int", "v": " 1"},
        {"$": "int", "v": "1_0"},
        {"$": "int", "v": "١"},
        {"$": "int", "v": 1},
        {"$": "float", "v": "1_0"},
        {"$": "set", "v": [[]]},
        {"$": "dict", "v": [[1]]},
        {"$": "dict", "v": [[{"$": "dict", "v": []}, 1]]},
        {"$": "dict", "v": {"a": 1}},
        {"$": "fraction", "v": "1/0"},
        {"$": "bytes", "v": "$"},
        {"$": "complex", "v": ["1"]},
        {"$": "decimal", "v": "one"},
        {"$": "datetime", "v": "now"},
        {"$": "opaque", "type": 1, "repr": "x"},
        {"$": ["int"], "v": "1"},
        {"$": "pickle", "v": "x"},
        {},
    ],
)
def test_broken_values_are_refused(data: Any) -> None:
    with pytest.raises(ProtocolError):
        protocol.decode(data)


def test_too_deep_and_too_many() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ProtocolError, match="deep"):
        protocol.decode(deep)
    with pytest.raises(ProtocolError, match="large"):
        protocol.decode([0] * (protocol.MAX_ITEMS + 1))


def test_colliding_keys_are_few() -> None:
    modulus = sys.hash_info.modulus
    items = [{"$": "int", "v": str(modulus * number)} for number in range(1, 100_000)]
    started = time.monotonic()
    with pytest.raises(ProtocolError, match="keys"):
        protocol.decode({"$": "set", "v": items})
    assert time.monotonic() - started < 2


def test_lone_surrogates_become_question_marks() -> None:
    assert protocol.decode(json.loads(json.dumps(wire.encode_value("a\udc80b")))) == "a?b"
    assert protocol.text("\ud800", 10) == "?"


def test_the_jail_side_cuts_what_is_too_large() -> None:
    value = protocol.decode(wire.encode_value(list(range(200_000))))
    assert isinstance(value, Opaque) and "too large" in value.repr
    assert isinstance(protocol.decode(wire.encode_value(1 << 100_000)), Opaque)


def test_subclasses_are_sent_as_their_base() -> None:
    class Number(int):
        def __repr__(self) -> str:
            return "hidden"

    class Names(dict):  # type: ignore[type-arg]
        def items(self) -> Any:
            raise RuntimeError

    assert wire.encode_value([Number(3), Names(a=1)]) == [3, {"$": "dict", "v": [["a", 1]]}]


def test_what_is_not_plain_on_our_side_is_sent_as_text() -> None:
    assert wire.decode_value(protocol.encode({"x": object})) == {"x": "<class 'object'>"}
    assert math.isnan(wire.decode_value(protocol.encode(float("nan"))))
    assert wire.decode_value(protocol.encode([Decimal("1.0"), Fraction(1, 3)])) == [
        Decimal("1.0"),
        Fraction(1, 3),
    ]
