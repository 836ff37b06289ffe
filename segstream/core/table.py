"""Carries a mapping out: rows in, numbered Segment Spec calls out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import msgspec

from segstream.core.cells import (
    CONVERT,
    identifier,
    no_time,
    plus_product,
    test_of,
    time_reader,
)
from segstream.core.mapping import CallMapping, Mapping, MappingError

#: (number of the call in its file, from 1; time in ms or None; raw id or None; the call as JSON)
Numbered = tuple[int, int | None, str | None, bytes]
#: Cells in the order of the columns. None and "" are absent.
Row = Sequence[Any]
#: (userId, anonymousId)
Ids = tuple[str | None, str | None]

MAX_ID = 256
"""Characters of an id. A longer one is sent and refused: it decides no partition."""


class _Call(msgspec.Struct, omit_defaults=True, rename="camel"):
    type: str
    event: Any = None
    message_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: Any = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None


_encode = msgspec.json.Encoder(enc_hook=str).encode


class _Plan:
    """One CallMapping with its columns resolved to positions."""

    def __init__(self, call: CallMapping, at: Callable[[str], int]) -> None:
        fields = call.properties | call.traits
        self.type, self.event = call.type, call.event
        self.event_at = None if call.event_column is None else at(call.event_column)
        self.id_at = None if call.message_id is None else at(call.message_id)
        self.conditions = [(at(when.column), test_of(when)) for when in call.when]
        self.are_traits = call.type in ("identify", "group")
        self.fixed = {name: v.value for name, v in fields.items() if v.value is not None}
        self.cells = [
            (name, at(v.column), CONVERT[v.type])
            for name, v in fields.items()
            if v.column is not None
        ]
        self.sums = [
            (name, [at(column) for column in v.sum], v.abs) for name, v in fields.items() if v.sum
        ]

    def wants(self, row: Row) -> bool:
        # A list, not a generator: three times as fast for the one or two conditions there are.
        return all([test(row[at]) for at, test in self.conditions])  # noqa: C419

    def call(
        self, row: Row, ids: Ids, time: Any, digest: str | None, sums: dict[str, Any] | None = None
    ) -> bytes:
        fields: dict[str, Any] = self.fixed.copy()
        for name, at, convert in self.cells:
            cell = row[at]
            if cell is not None and cell != "":
                fields[name] = cell if convert is None else convert(cell)
        if sums:
            fields.update(sums)
        return _encode(
            _Call(
                self.type,
                self.event if self.event_at is None else row[self.event_at],
                digest if self.id_at is None else identifier(row[self.id_at]),
                ids[0],
                ids[1],
                time,
                None if self.are_traits else fields or None,
                fields if self.are_traits else None,
            )
        )


class _Group:
    """What a per-group call has seen of the group at hand."""

    def __init__(self, plan: _Plan) -> None:
        self.plan = plan
        self.clear()

    def clear(self) -> None:
        self.last: tuple[Row, int | None, Any] | None = None
        self.digests: list[str] = []
        self.totals: list[Decimal | str] = [Decimal(0)] * len(self.plan.sums)

    def add(self, row: Row, ms: int | None, time: Any, content: Callable[[Row], bytes]) -> None:
        self.last = row, ms, time
        if self.plan.id_at is None:
            self.digests.append(digest_of(content(row)))
        for i, (_, factors, _) in enumerate(self.plan.sums):
            total = self.totals[i]
            if isinstance(total, Decimal):
                self.totals[i] = plus_product(total, [row[at] for at in factors])

    def call(self, row: Row, time: Any, ids: Ids) -> bytes:
        digest = digest_of("".join(self.digests).encode()) if self.digests else None
        sums = {
            name: float(abs(total) if absolute else total) if isinstance(total, Decimal) else total
            for (name, _, absolute), total in zip(self.plan.sums, self.totals, strict=True)
        }
        return self.plan.call(row, ids, time, digest, sums)


class Table:
    """A mapping applied to tables with these columns; `content` gives a row's bytes, equal for
    equal rows only. Raises MappingError for columns that are not there."""

    def __init__(
        self, mapping: Mapping, columns: Sequence[str], content: Callable[[Row], bytes]
    ) -> None:
        missing = [
            f"{k}: no column {name!r}" for k, name in mapping.columns() if name not in columns
        ]
        if missing:
            raise MappingError("\n".join([*missing, f"columns are: {', '.join(columns)}"]))
        at = {name: i for i, name in enumerate(columns)}.__getitem__
        self._content = content
        self._user = None if mapping.user_id is None else at(mapping.user_id)
        self._anonymous = None if mapping.anonymous_id is None else at(mapping.anonymous_id)
        self._key = None if mapping.group_by is None else at(mapping.group_by)
        self._time_at = None if mapping.timestamp is None else at(mapping.timestamp.column)
        self._time = no_time if mapping.timestamp is None else time_reader(mapping.timestamp)
        self._single = [_Plan(call, at) for call in mapping.calls if call.per == "row"]
        self._groups = [_Group(_Plan(call, at)) for call in mapping.calls if call.per == "group"]

    def _ids(self, row: Row) -> Ids:
        user, anonymous = self._user, self._anonymous
        return (
            None if user is None else identifier(row[user]),
            None if anonymous is None else identifier(row[anonymous]),
        )

    def calls(self, rows: Iterable[Row]) -> Iterator[Numbered]:
        """The calls in the order of their rows; those per group after the group's last row."""
        n = 0
        group: tuple[Any, Ids] = (None, (None, None))
        time_of, time_at, key_at = self._time, self._time_at, self._key
        for row in rows:
            ids = self._ids(row)
            if key_at is not None and group != (row[key_at], ids):
                for call in self._close(n, group[1]):
                    yield call
                    n += 1
                group = row[key_at], ids
            ms, time = time_of(None if time_at is None else row[time_at])
            for plan in self._single:
                if plan.wants(row):
                    n += 1
                    own = digest_of(self._content(row)) if plan.id_at is None else None
                    yield n, ms, raw_id(ids), plan.call(row, ids, time, own)
            if group[0] is not None and group[0] != "":
                for per_group in self._groups:
                    if per_group.plan.wants(row):
                        per_group.add(row, ms, time, self._content)
        yield from self._close(n, group[1])

    def _close(self, n: int, ids: Ids) -> Iterator[Numbered]:
        for group in self._groups:
            if group.last is not None:
                n += 1
                row, ms, time = group.last
                yield n, ms, raw_id(ids), group.call(row, time, ids)
                group.clear()

    def count(self, rows: Iterable[Row]) -> int:
        """How many calls these rows give: the same walk without making them."""
        n = 0
        group: tuple[Any, Ids] = (None, (None, None))
        waiting: list[_Group] = []
        for row in rows:
            n += sum(plan.wants(row) for plan in self._single)
            if self._key is None:
                continue
            key = row[self._key], self._ids(row)
            if key != group:
                group = key
                waiting = [] if key[0] is None or key[0] == "" else self._groups
            if waiting:
                still = [per_group for per_group in waiting if not per_group.plan.wants(row)]
                n += len(waiting) - len(still)
                waiting = still
        return n


def digest_of(content: bytes) -> str:
    """The messageId of what has none: BLAKE2b-128 of its content as 32 hex digits."""
    return blake2b(content, digest_size=16).hexdigest()


def raw_id(ids: Ids) -> str | None:
    """The id that decides the partition; None if there is no usable one."""
    found = ids[0] or ids[1]
    return found if found and len(found) <= MAX_ID else None
