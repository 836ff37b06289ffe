"""Strict JSON objects with exact numbers; the rules that two decoders of one text must share.

RFC 8259: UTF-8, no BOM, no NaN, no lone surrogates; duplicate keys: the last one wins.
A number is judged where it is read: JSON sets no bounds, so 1e999 in a field that nobody reads
is no fault. Numbers are exact here: int, or Decimal (also for an integer of very many digits).
"""

import json
import re
from decimal import Decimal, InvalidOperation
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


_GRAMMAR = msgspec.json.Decoder(_Grammar)


def parse_object(value: bytes | None) -> dict[str, Any]:
    """The JSON object in a value; ValueError with the fault in words otherwise.

    The grammar is checked by msgspec, which is strict; the standard library then reads, because
    it keeps numbers exact.
    """
    if value is None:
        raise ValueError("a JSON object expected, got null")
    if len(value) > 2 * MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        text = value.decode()
        _GRAMMAR.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)[:200]) from error
    parsed: dict[str, Any] = _EXACT.decode(text)
    return parsed


def skimmable(value: bytes) -> bool:
    """Whether a decoder that skips unread fields sees all that `parse_object` refuses in them.

    msgspec does not check UTF-8 in what it skips, and its limit of nesting moves with the stack.
    A text of up to 2 x MAX_DEPTH bytes cannot be both valid and too deep.
    Costs below 0.1 µs for a usual event.
    """
    if len(value) > 2 * MAX_DEPTH and value.count(b"[") + value.count(b"{") > MAX_DEPTH:
        return False
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _depth(value: bytes) -> int:
    """Deepest nesting, brackets in strings left out."""
    steps = _STEP[np.frombuffer(_STRING.sub(b"", value), dtype=np.uint8)]
    return int(np.cumsum(steps, dtype=np.int32).max(initial=0))


def _integer(text: str) -> int | Decimal:
    # int() takes quadratic time and refuses very many digits; Decimal does neither.
    return int(text) if len(text) <= _INT_DIGITS else Decimal(text)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond 10^18
        mantissa, _, exponent = text.lower().partition("e")
        if exponent.startswith("-") or not Decimal(mantissa):
            return Decimal(0)
        return Decimal("-Infinity" if text.startswith("-") else "Infinity")


_EXACT = json.JSONDecoder(parse_float=_decimal, parse_int=_integer)
