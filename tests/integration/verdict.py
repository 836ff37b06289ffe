"""What a deployment has done, held against tests/oracle.py: the log says what must have come out.

The oracle reads the log as it is in Kafka, clock and model records included, with the versions
found in segment-models. Then States, Checkpoints and every committed record must be as it says.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from multiprocessing import get_context
from types import MappingProxyType
from typing import Any, NamedTuple

from segstream.core.redrive import Marker, read
from segstream.core.step import Function
from tests.comparison import as_kept, differences, letter_headers, state_of
from tests.integration.deployment import Deployment
from tests.oracle import Oracle, Output, Record

#: Key, value and headers of a record.
Came = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]
#: The last headers of a record that was forwarded.
FORWARDED = ["segstream.hops", "segstream.appended"]


class Expected(NamedTuple):
    """What the oracle says of a partition. `samples` come with their keys."""

    states: dict[str, Any]
    checkpoint: dict[str, Any]
    outputs: list[Output]


def judge(
    config: dict[str, Any],
    models: dict[int, Any],
    features_id: str,
    partitions: int,
    log: tuple[int, list[Record]],
) -> Expected:
    """One partition by brute force; a process of its own, because it takes its time."""
    number, records = log
    oracle = Oracle(
        config, partition=number, partitions=partitions, models=models, features_id=features_id
    )
    for record in records:
        oracle.feed(*record)
    return Expected(oracle.states(), oracle.checkpoint(), oracle.outputs)


class Verdict:
    """Everything there is to compare, read once, at the end."""

    def __init__(
        self,
        at: Deployment,
        config: dict[str, Any],
        forged: Mapping[int, Sequence[Came]] = MappingProxyType({}),
    ) -> None:
        """`forged`: by partition, records of producers that claim to be forwarded."""
        self.at = at
        self.forged = {p: forged.get(p, ()) for p in at.partitions}
        self.function = Function(at.settings.definition)
        self.log = {p: at.read("customer-events", p) for p in at.partitions}
        versions = [
            json.loads(m.value()) for m in at.read("segment-models", 0) if m.key().isdigit()
        ]
        self.models = {version["model"]: version for version in versions}
        assert len(self.models) == len(versions), "a version was published twice"
        partitions = len(at.partitions)
        with ProcessPoolExecutor(2, get_context("spawn")) as pool:
            futures = [
                pool.submit(
                    judge, config, self.models, self.function.features_id, partitions, (p, records)
                )
                for p, records in ((p, list(map(record_of, self.log[p]))) for p in self.log)
            ]
            self.expected = [future.result(120) for future in futures]

    def outputs(self, partition: int, topic: str) -> list[Output]:
        return [o for o in self.expected[partition].outputs if o.topic == topic]

    def differences(self) -> list[str]:
        """Everything that is not as the oracle says; empty: all is."""
        found: list[str] = []
        for p in self.at.partitions:
            for part, texts in (
                ("state", self._states(p)),
                ("checkpoint", self._checkpoint(p)),
                ("changes", self._changes(p)),
                ("memberships", self._memberships(p)),
                ("dead letters", self._dead_letters(p)),
            ):
                found += [f"partition {p}, {part}: {text}" for text in texts]
        return found + self._samples() + self._forwarded()

    def _states(self, p: int) -> list[str]:
        start = self.at.keys.customer(p, "")
        keys = list(self.at.redis.scan_iter(f"{start}*", count=10_000))
        blobs: Any = self.at.redis.mget(keys) if keys else []
        names = [key.decode().removeprefix(start) for key in keys]
        there = {
            name: state_of(self.function, name, blob)
            for name, blob in zip(names, blobs, strict=True)
        }
        states = self.expected[p].states
        wanted = {name: as_kept(self.function, state) for name, state in states.items()}
        members: Any = self.at.redis.smembers
        index = {
            member.decode(): int(key.rpartition(b":")[2])
            for key in self.at.redis.scan_iter(f"{self.at.keys.minute(p, 0)[:-1]}*")
            for member in members(key)
        }
        minutes = self.at.settings.definition.tick.minutes
        due = {name: state["hash"] % minutes for name, state in wanted.items()}
        return differences(there, wanted) + differences(index, due, "minute")

    def _checkpoint(self, p: int) -> list[str]:
        found = self.at.checkpoint(p)
        there = {name: getattr(found, name) for name in self.expected[p].checkpoint}
        there["position"], there["born"] = tuple(found.position), list(found.born)
        return differences(there, self.expected[p].checkpoint)

    def _changes(self, p: int) -> list[str]:
        there = [
            {"key": m.key().decode(), "id": headers_of(m)["ce_id"], "value": json.loads(m.value())}
            for m in self.at.read("segment-changes", p)
        ]
        wanted = [
            {"key": o.key, "id": (o.ce_id or "").encode(), "value": o.value}
            for o in self.outputs(p, "changes")
        ]
        return compared(there, wanted)

    def _memberships(self, p: int) -> list[str]:
        """All of them in order; then the last one per customer against the States."""
        there = [(m.key().decode(), parsed(m)) for m in self.at.read("customer-segments", p)]
        wanted = [(o.key, o.value) for o in self.outputs(p, "memberships")]
        latest = {key: value["segment"] for key, value in dict(there).items() if value}
        states = self.expected[p].states.items()
        held = {name: s["segment"] for name, s in states if s["segment"] is not None}
        return compared(there, wanted) + differences(latest, held, "latest")

    def _dead_letters(self, p: int) -> list[str]:
        """Key, value and headers as they came, then the reason and where it came from."""
        wanted = [(o.key, o.value, o.headers) for o in self.outputs(p, "dead_letters")]
        there, topics = [], set()
        for m in self.at.read("customer-events-dlq", p):
            if isinstance(read(p, m.headers()), Marker):  # of `segstream redrive`
                continue
            headers, errors = letter_headers(m.headers())
            topics.add(errors["topic"].decode())
            there.append((m.key(), m.value(), headers))
        elsewhere = topics - {self.at.topic("customer-events")}
        return [*compared(there, wanted), *(f"from topic {topic}" for topic in elsewhere)]

    def _forwarded(self) -> list[str]:
        """Each once in its target's log, those of one partition in order; no others claim to be."""
        found = []
        for target in self.at.partitions:
            wanted = [
                [
                    (o.key, o.value, tuple(o.headers or ()))
                    for o in self.outputs(p, "events")
                    if o.target == target
                ]
                for p in self.at.partitions
            ]
            there = [
                (m.key(), m.value(), tuple(m.headers()))
                for m in self.log[target]
                if [name for name, _ in (m.headers() or [])[-2:]] == FORWARDED
            ]
            lacking = Counter(chain(self.forged[target], *wanted))
            lacking.subtract(there)
            for record, number in lacking.items():
                if number:
                    text = f"{abs(number)} {'missing' if number > 0 else 'too many'}"
                    found.append(f"forwarded to {target}: {text}: {record!r:.500}")
            for source, records in enumerate(wanted):
                rest = iter(there)
                if not all(record in rest for record in records):
                    found.append(f"forwarded from {source} to {target}: not in order")
        return found

    def _samples(self) -> list[str]:
        """All partitions share one topic; within each, in order."""
        wanted = {
            p: [(o.key, o.value) for o in self.outputs(p, "samples")] for p in self.at.partitions
        }
        origin = {key: p for p, samples in wanted.items() for key, _ in samples}
        there: dict[int, list[Any]] = defaultdict(list)
        for m in self.at.read("feature-samples", 0):
            key = m.key().decode()
            there[origin.get(key, -1)].append((key, parsed(m)))
        unknown = [f"samples of nobody: {there[-1][:3]}"] if there[-1] else []
        return unknown + [
            f"partition {p}, samples: {text}"
            for p in wanted
            for text in compared(there[p], wanted[p])
        ]


def compared(there: list[Any], wanted: list[Any]) -> list[str]:
    """The first record that differs says more than all that follow it."""
    found = [] if len(there) == len(wanted) else [f"{len(there)} records, not {len(wanted)}"]
    for i, (a, b) in enumerate(zip(there, wanted, strict=False)):
        if texts := differences(plain(a), plain(b), f"[{i}]"):
            return found + texts
    return found


def plain(value: Any) -> Any:
    """Tuples as lists, so that `differences` looks into them."""
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def record_of(message: Any) -> Record:
    return Record(
        message.offset(),
        message.timestamp()[1],
        message.headers(),
        message.value(),
        message.key(),
    )


def headers_of(message: Any) -> dict[str, bytes]:
    return dict(message.headers())


def parsed(message: Any) -> Any:
    return None if message.value() is None else json.loads(message.value())
