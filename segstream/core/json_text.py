"""Strict JSON objects; the rules that two decoders of one text must share.

RFC 8259: UTF-8, no BOM, no NaN, no lone surrogates; duplicate keys: the last one wins.
A number is judged where it is read: JSON sets no bounds, so 1e999 in a field that nobody reads
is no fault: it is infinite. A fraction is a float64, and so is an integer of very many digits.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

MAX_DEPTH = 500
"""Levels of nesting: well below the interpreter's own limit, which moves with the stack."""
_INT_DIGITS = 256
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_STEP = np.zeros(256, dtype=np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1


class _Grammar(msgspec.Struct):
    """No fields: decoding checks the grammar of a JSON object and keeps nothing of it."""


_READ = msgspec.json.Decoder(dict[str, Any])
_GRAMMAR = msgspec.json.Decoder(_Grammar)


def parse_object(value: bytes | None) -> dict[str, Any]:
    """The JSON object in a value; ValueError with the fault in words otherwise.

    msgspec is strict and fast, but takes no number beyond a float64: these are read by the
    standard library, once msgspec has found that the grammar is right.
    """
    if value is None:
        raise ValueError("a JSON object expected, got null")
    too_deep = f"nested deeper than {MAX_DEPTH} levels"
    try:
        if len(value) > 2 * MAX_DEPTH:
            _GRAMMAR.decode(value)  # keeps nothing: what is wrong here has cost little
            if _is_crowded(value) and _depth(value) > MAX_DEPTH:
                raise ValueError(too_deep)
        return _read(value)
    except RecursionError:
        raise ValueError(too_deep) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(str(error)[:200]) from error


def _read(value: bytes) -> dict[str, Any]:
    try:
        return _READ.decode(value)
    except msgspec.ValidationError:  # a number, or no object
        _GRAMMAR.decode(value)
    except UnicodeDecodeError:  # says a place within a string
        pass
    parsed: dict[str, Any] = _EXTREME.decode(value.decode())
    return parsed


def skimmable(value: bytes) -> bool:
    """Whether a decoder that skips unread fields sees all that `parse_object` refuses in them.

    msgspec does not check UTF-8 in what it skips, and its limit of nesting moves with the stack.
    A text of up to 2 x MAX_DEPTH bytes cannot be both valid and too deep.
    Costs below 0.1 µs for a usual event.
    """
    if _is_crowded(value):
        return False
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def skimmable_all(values: Sequence[bytes | None]) -> bool:
    """Whether all are there and `skimmable`, told in no time; False: each must be asked."""
    some = [value for value in values if value]
    short = max(map(len, some), default=0) <= 2 * MAX_DEPTH
    return short and len(some) == len(values) and all(map(bytes.isascii, some))


def _is_crowded(value: bytes) -> bool:
    """Whether a text can be nested too deep at all."""
    return len(value) > 2 * MAX_DEPTH and value.count(b"[") + value.count(b"{") > MAX_DEPTH


def _depth(value: bytes) -> int:
    """Deepest nesting, brackets in strings left out."""
    steps = _STEP[np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _integer(text: str) -> int | float:
    # int() takes quadratic time, and refuses very many digits.
    return int(text) if len(text) <= _INT_DIGITS else float(text)


_EXTREME = json.JSONDecoder(parse_int=_integer)
