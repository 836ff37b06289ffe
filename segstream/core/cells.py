"""Cells of a table: what they are read as; what they cannot be read as is passed on as it is."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from segstream.core.mapping import Timestamp, When, zone_of

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_MAX_DIGITS = 40


def identifier(cell: Any) -> str | None:
    if cell is None or cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)  # many tools read a column of integers with gaps as floats
    return cell if isinstance(cell, str) else str(cell)


def test_of(when: When) -> Callable[[Any], bool]:
    yes = not when.negate
    if when.begins is not None:
        begins = when.begins
        return lambda cell: (cell is not None and str(cell).startswith(begins)) is yes
    if when.equals is not None:
        equals = when.equals
        return lambda cell: (cell is not None and str(cell) == equals) is yes
    there = when.present is yes
    return lambda cell: (cell is not None and cell != "") is there


@lru_cache(1 << 16)
def _decimal(text: str) -> Decimal | None:
    """The finite number that a text holds, of a sane length; else None."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    sane = number.is_finite() and abs(number.adjusted()) < _MAX_DIGITS and len(text) < _MAX_DIGITS
    return number if sane and "_" not in text else None


@lru_cache(1 << 16)
def _read_integer(text: str) -> int | str:
    number = _decimal(text)
    return text if number is None or number != int(number) else int(number)


@lru_cache(1 << 16)
def _read_number(text: str) -> float | str:
    number = _decimal(text)
    return text if number is None else float(number)


def _integer(cell: Any) -> Any:
    if isinstance(cell, str):
        return _read_integer(cell)
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _number(cell: Any) -> Any:
    if isinstance(cell, str):
        return _read_number(cell)
    return float(cell) if isinstance(cell, Decimal) else cell


def _boolean(cell: Any) -> Any:
    return {"true": True, "1": True, "false": False, "0": False}.get(str(cell).lower(), cell)


CONVERT: dict[str, Callable[[Any], Any] | None] = {
    "text": None,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
}


def plus_product(total: Decimal, cells: list[Any]) -> Decimal | str:
    """The total with one more row, exactly; or the text of a cell that is no number.

    An empty cell: the row adds nothing.
    """
    product = Decimal(1)
    for cell in cells:
        if cell is None or cell == "":
            return total
        number = _decimal(cell if isinstance(cell, str) else str(cell))
        if number is None:
            return str(cell)
        product *= number
    return total + product


def no_time(_cell: Any) -> tuple[int | None, Any]:
    return None, None


def time_reader(timestamp: Timestamp) -> Callable[[Any], tuple[int | None, Any]]:
    """Cell → (ms since 1970, text in UTC with ms); (None, the cell) if it is no time."""
    zone, pattern = zone_of(timestamp.zone), timestamp.format
    per_unit = {"seconds": 1000, "milliseconds": 1}.get(pattern)

    def instant(cell: Any) -> datetime:
        if isinstance(cell, datetime):
            return cell
        if isinstance(cell, date):
            return datetime.combine(cell, time())
        if per_unit is not None:
            return _EPOCH + timedelta(milliseconds=int(Decimal(str(cell)) * per_unit))
        if pattern == "iso":
            return datetime.fromisoformat(cell)
        return datetime.strptime(cell, pattern)  # noqa: DTZ007 (the zone follows below)

    @lru_cache(1 << 12)
    def known(cell: Any) -> tuple[int | None, Any]:
        try:
            found = instant(cell)
            utc = (found if found.tzinfo else found.replace(tzinfo=zone)).astimezone(UTC)
        except (ValueError, TypeError, OverflowError, ArithmeticError):
            return None, cell
        text = utc.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
        return (utc - _EPOCH) // _MS, text

    def read(cell: Any) -> tuple[int | None, Any]:
        if cell is None or cell == "":
            return None, None
        return (None, cell) if isinstance(cell, list | dict) else known(cell)

    return read
