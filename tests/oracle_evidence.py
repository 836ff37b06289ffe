"""docs/semantics.md, sections 4 and 5: what accepted events say about a customer.

Part of the oracle (tests/oracle.py): everything from scratch, nothing remembered.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle_reading import Measure, duration_ms

DAY = 86_400_000
CAPACITY = {"count": 65_535, "sum": 4_294_967_295}
TOKEN = re.compile(r"\s*(?:(\d+[smhdw](?=\s*\]))|(\d+\.?\d*(?:[eE][+-]?\d+)?)|(\w+)|(\S))")


@dataclass(frozen=True)
class Accepted:
    """One accepted event; `time` is clamped; `id_hash` is XXH3-64 of the messageId."""

    offset: int
    time: int
    id_hash: int
    amounts: dict[str, float | int | None]
    traits: dict[str, float | None]


class Evidence:
    """What one customer's accepted events say at one instant."""

    def __init__(
        self, events: Sequence[Accepted], at: int, measures: Sequence[Measure], pane: int
    ) -> None:
        self.events, self.at, self.pane = events, at, pane
        self.measures = {measure.name: measure for measure in measures}

    def panes(self, name: str) -> tuple[dict[int, int], int]:
        """(all panes ever: count, minor units, or bits of declared values; values cut)."""
        kind = self.measures[name].kind
        panes: dict[int, int] = defaultdict(int)
        cut = 0
        for event in self.events:
            amount = event.amounts.get(name)
            if amount is None or kind == "last":
                continue
            pane = event.time // self.pane
            if kind == "distinct":
                panes[pane] |= 1 << int(amount)
            else:
                full = panes[pane] + int(amount)
                panes[pane] = min(full, CAPACITY[kind])
                cut += full > CAPACITY[kind]
        return panes, cut

    def within(self, name: str, width: int) -> dict[int, int]:
        """Non-empty panes among the last `width` panes."""
        now = self.at // self.pane
        panes, _ = self.panes(name)
        return {p: value for p, value in panes.items() if now - width < p <= now and value}

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
        return max((e.time for e in self.events if name in e.amounts), default=None)

    def recency(self, name: str) -> float | None:
        time = self.last_time(name)
        return None if time is None else (self.at - time) / DAY

    def newest(self, name: str) -> tuple[float, int] | None:
        """(value, its time) with the greatest (time, offset), of a measure or trait."""
        found: list[tuple[int, int, float]] = []
        for event in self.events:
            source = event.amounts if name in self.measures else event.traits
            value = source.get(name)
            if value is not None:
                found.append((event.time, event.offset, value))
        if not found:
            return None
        time, _, value = max(found)
        return value, time

    def latest(self, name: str) -> float | None:
        newest = self.newest(name)
        return None if newest is None else newest[0]


class Expression:
    """Recursive descent over the text, evaluated while it is read; missing is None."""

    def __init__(self, text: str, rows: Evidence) -> None:
        self.tokens: list[str] = [
            next(filter(None, m.groups())) for m in TOKEN.finditer(text.strip())
        ]
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
