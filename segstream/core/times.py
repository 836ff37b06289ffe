"""The times of many events at once: what `spec.parse_time` makes of each text, as one array.

A source writes its times in one form, and the digits of the usual ones are read column by column.
Any other text is read by itself, as `parse_time` does: here nothing is read that it refuses.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.core.spec import EARLIEST_MS, END_MS, time_of

Ints = npt.NDArray[np.int64]
NO_TIME = -1
"""What stands for a text that is no time, or none of the years 1970 to 2200."""
FEW = 30
"""So many texts are read one by one: arrays have a price of their own."""

#: Day of the first of each month, 1970-01 to 2201-01. (numpy can read texts as times, but of more
#: than 500 it does so without the interpreter's lock, and crashes on a day that there is not.)
_FIRSTS = np.arange("1970-01", "2201-02", dtype="M8[M]").astype("M8[D]").astype(np.int64)
_FIRST_MONTH = 12 * 1970 + 1
#: A time in numbers: 12 x year + month, month, day, hour, minute, milliseconds of the minute.
_LOWEST = np.array([[_FIRST_MONTH], [1], [1], [0], [0], [0]])
_HIGHEST = np.array([[_FIRST_MONTH + len(_FIRSTS) - 2], [12], [31], [23], [59], [59_999]])
#: Which of the numbers a digit is a part of, where its group begins and ends, and the unit of it.
_PARTS = (
    (0, 0, 4, 12),
    (0, 5, 7, 1),
    (1, 5, 7, 1),
    (2, 8, 10, 1),
    (3, 11, 13, 1),
    (4, 14, 16, 1),
    (5, 17, 19, 1000),
    (5, 20, 23, 1),
)


class _Form(NamedTuple):
    """A way to write times. `lowest` uint8 [length]: its characters, every digit a 0; `spread`: how
    far above it each may be; `weights` [length, 6]: what a digit adds to each of the numbers."""

    lowest: npt.NDArray[np.uint8]
    spread: npt.NDArray[np.uint8]
    weights: npt.NDArray[np.float32]  # exact: no number is above 2^24


def _form(fraction: str, zone: str) -> _Form:
    digits = "0000-00-00T00:00:00" + fraction
    lowest = np.frombuffer((digits + zone).encode(), np.uint8)
    spread = np.array([9 * (c == "0") for c in digits] + [0] * len(zone), np.uint8)
    weights = np.zeros((len(lowest), len(_LOWEST)), np.float32)
    for number, start, stop, unit in _PARTS:
        if stop <= len(digits):
            weights[start:stop, number] = unit * 10.0 ** np.arange(stop - start - 1, -1, -1)
    return _Form(lowest, spread, weights)


_FORMS = {
    len(form.lowest): form  # no two are equally long
    for form in (_form(*parts) for parts in product(("", ".000", ".000000"), ("Z", "+00:00")))
}


def times_of(texts: Sequence[str]) -> Ints:
    """Milliseconds since 1970 of RFC 3339 texts, int64 [n]; NO_TIME where `parse_time` raises."""
    lengths = list(map(len, texts))
    if len(set(lengths)) <= 1:
        return _of_one_length(texts)
    rows: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths):
        rows[length].append(row)
    times = np.empty(len(texts), np.int64)
    for some in rows.values():
        times[some] = _of_one_length([texts[row] for row in some])
    return times


def _of_one_length(texts: Sequence[str]) -> Ints:
    form = _FORMS.get(len(texts[0])) if len(texts) > FEW else None
    if form is None:
        return np.array([_time_of(text) for text in texts], np.int64)
    characters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    digits = characters.reshape(len(texts), -1) - form.lowest  # what is below wraps around
    formed = digits <= form.spread
    numbers = np.ascontiguousarray((digits.astype(np.float32) @ form.weights).T).astype(np.int64)
    fits = ((numbers >= _LOWEST) & (numbers <= _HIGHEST)).all(axis=0)
    if not formed.all():
        fits &= formed.all(axis=1)
    months, _, day, hour, minute, ms = numbers
    month = np.where(fits, months, _FIRST_MONTH) - _FIRST_MONTH
    days = _FIRSTS[month] + day - 1
    fits &= days < _FIRSTS[month + 1]
    times: Ints = ((days * 24 + hour) * 60 + minute) * 60_000 + ms
    for row in np.flatnonzero(~fits).tolist():
        times[row] = _time_of(texts[row])
    return times


def _time_of(text: str) -> int:
    ms = time_of(text)
    return NO_TIME if ms is None or not EARLIEST_MS <= ms < END_MS else ms
