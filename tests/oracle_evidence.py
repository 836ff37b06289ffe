"""docs/semantics.md, sections 4 and 5: what accepted events say about a customer.

Part of the oracle (tests/oracle.py): everything from scratch, nothing remembered.
"""

import math
import re
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from tests.oracle_reading import Measure, Trait, duration_ms

DAY = 86_400_000
CAPACITY = {"count": 65_535, "sum": 4_294_967_295}
TOKEN = re.compile(
    r"\s*(?:(\d+[smhdw](?=\s*\]))|(\d+\.?\d*(?:[eE][+-]?\d+)?)|('[^']*')|(\w+)|(\S))"
)


@dataclass(frozen=True)
class Accepted:
    """One accepted event; `time` is clamped; `id_hash` is XXH3-64 of the messageId."""

    offset: int
    time: int
    id_hash: int
    amounts: dict[str, float | int | None]
    traits: dict[str, float | None]


class History:
    """All accepted events of one customer, for ever: in log order, and by measure in order of time.

    A row is computed from these alone. The order only saves looking at what is outside a window.
    """

    def __init__(self) -> None:
        self.events: list[Accepted] = []
        self.amounts: dict[str, list[tuple[int, int, float | int | None]]] = defaultdict(list)
        self.traits: dict[str, list[tuple[int, int, float | None]]] = defaultdict(list)

    def add(self, event: Accepted) -> None:
        self.events.append(event)
        for name, amount in event.amounts.items():
            insort(self.amounts[name], (event.time, event.offset, amount))
        for name, value in event.traits.items():
            insort(self.traits[name], (event.time, event.offset, value))


class Evidence:
    """What one customer's accepted events say at one instant."""

    def __init__(
        self,
        history: History,
        at: int,
        declared: tuple[Mapping[str, Measure], Mapping[str, Trait]],
        pane: int,
    ) -> None:
        self.history, self.at, self.pane = history, at, pane
        self.measures, self.traits = declared

    def within(self, name: str, width: int) -> dict[int, int]:
        """Non-empty panes among the last `width`: count, minor units, or bits of values."""
        now, kind = self.at // self.pane, self.measures[name].kind
        found = self.history.amounts[name]
        panes: dict[int, int] = defaultdict(int)
        for i in range(bisect_left(found, ((now - width + 1) * self.pane,)), len(found)):
            time, _, amount = found[i]
            if amount is None or kind == "last":
                continue
            if kind == "distinct":
                panes[time // self.pane] |= 1 << int(amount)
            else:
                panes[time // self.pane] += int(amount)
        # What does not fit is cut off: amounts are not negative, so the order does not matter.
        full = CAPACITY.get(kind, math.inf)
        return {p: int(min(value, full)) for p, value in panes.items() if value}

    def cuts(self, name: str, event: Accepted) -> bool:
        """Whether some of what this event (not yet in the history) adds does not fit its pane."""
        amount, kind = event.amounts.get(name), self.measures[name].kind
        if amount is None or kind not in CAPACITY:
            return False
        start = event.time // self.pane * self.pane
        found = self.history.amounts[name]
        within = slice(bisect_left(found, (start,)), bisect_left(found, (start + self.pane,)))
        there = sum(int(other or 0) for _, _, other in found[within])
        return min(there, CAPACITY[kind]) + int(amount) > CAPACITY[kind]

    def window(self, name: str, length: int) -> float:
        measure = self.measures[name]
        values = self.within(name, length // self.pane).values()
        if measure.kind == "distinct":
            bits = 0
            for value in values:
                bits |= value
            return float(bits.bit_count())
        total = sum(values)
        return total / 10**measure.decimals if measure.kind == "sum" else float(total)

    def last_time(self, name: str) -> int | None:
        found = self.history.amounts[name]
        return found[-1][0] if found else None

    def recency(self, name: str) -> float | None:
        time = self.last_time(name)
        return None if time is None else (self.at - time) / DAY

    def newest(self, name: str) -> tuple[float, int] | None:
        """(value, its time) with the greatest (time, offset), of a measure or trait."""
        found = self.history.amounts if name in self.measures else self.history.traits
        for time, _, value in reversed(found[name]):
            if value is not None:
                return value, time
        return None

    def latest(self, name: str) -> float | None:
        newest = self.newest(name)
        return None if newest is None else newest[0]

    def equals(self, name: str, value: str) -> float | None:
        position = self.latest(name)
        return (
            None if position is None else float(position == self.traits[name].values.index(value))
        )


@cache
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(next(filter(None, m.groups())) for m in TOKEN.finditer(text.strip()))


class Expression:
    """Recursive descent over the text, evaluated while it is read; missing is None."""

    def __init__(self, text: str, rows: Evidence) -> None:
        self.tokens = list(_tokens(text))
        self.rows = rows

    def value(self) -> float | None:
        result = self._sum()
        if self.tokens:
            raise ValueError(f"unexpected {self.tokens[0]!r}")
        return result

    def _take(self, *expected: str) -> str:
        token = self.tokens.pop(0)
        if expected and token not in expected:
            raise ValueError(f"{token!r} instead of {expected}")
        return token

    def _next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def _sum(self) -> float | None:
        left = self._product()
        while self._next() in ("+", "-"):
            sign, right = self._take(), self._product()
            if left is None or right is None:
                left = None
            else:
                left = left + right if sign == "+" else left - right
        return left

    def _product(self) -> float | None:
        left = self._atom()
        while self._next() in ("*", "/"):
            sign, right = self._take(), self._atom()
            if left is None or right is None or (sign == "/" and right == 0):
                left = None
            else:
                left = left * right if sign == "*" else left / right
        return left

    def _atom(self) -> float | None:
        token = self._take()
        if token == "(":
            inner = self._sum()
            self._take(")")
            return inner
        if token == "-":
            inner = self._atom()
            return None if inner is None else -inner
        if token[0].isdigit():
            return float(token)
        if self._next() == "(":
            return self._function(token)
        if self._next() == "[":
            self._take("[")
            length = duration_ms(self._take())
            self._take("]")
            return self.rows.window(token, length)
        return self.rows.latest(token)

    def _function(self, name: str) -> float | None:
        self._take("(")
        if name == "recency":
            measure = self._take()
            self._take(")")
            return self.rows.recency(measure)
        if name == "is_":
            trait, _, value = self._take(), self._take(","), self._take()
            self._take(")")
            return self.rows.equals(trait, value[1:-1])
        a = self._sum()
        if name == "log1p":
            self._take(")")
            return None if a is None or a <= -1 else math.log1p(a)
        self._take(",")
        b = self._sum()
        self._take(")")
        if name not in ("min", "max"):
            raise ValueError(name)
        if a is None or b is None:
            return None
        return min(a, b) if name == "min" else max(a, b)
