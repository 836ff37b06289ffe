"""The job of `benchmarks/peers`: segstream's core and the loop's arithmetic agree with the oracle."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers import measure, report
from benchmarks.peers.contents import Contents, Expected, contents, expected
from benchmarks.peers.job import Change, Job, Oracle
from benchmarks.peers.line_up import state_bytes
from benchmarks.peers.loop import Segmenter
from benchmarks.peers.model import CONFIG, fit, model_of
from benchmarks.peers.pace import change_of
from benchmarks.peers.stand import Reading, steady
from benchmarks.traffic import PARTITIONS, history, people
from consumers.settings import load
from segstream.core.batch import Checkpoint
from segstream.core.event import Records
from segstream.core.model import Model
from segstream.core.record import ModelActivated
from segstream.core.step import Function, Partition
from tests.harness import Replay

DEFINITION = load({"SEGSTREAM_CONFIG": str(CONFIG)}).definition


def made(customers: int, counted: int, zipf: float) -> tuple[Job, Contents, Expected]:
    who = people(customers, zipf)
    past = history(who)
    job = fit(past)
    what = contents(who, past, counted, counted // 4)
    return job, what, expected(job, what)


def core_changes(job: Job, what: Contents, cut: int) -> tuple[list[Change], dict[str, int]]:
    """What segstream's core makes of all partitions, in memory, and what it has counted."""
    record = model_of(job, DEFINITION)
    control = ModelActivated(version=record.model, digest=record.digest).model_dump_json().encode()
    calls = [*what.records(), *what.paced.records()]
    changes, counts = list[Change](), dict[str, int]()
    for number in range(PARTITIONS):
        values = [control, *(value for place, _, value in calls if place == number)]
        size = len(values)
        headers = [[("ce_type", b"segstream.model")], *([None] * (size - 1))]
        records = Records(range(size), [2**42] * size, values, headers, [None] * size)
        where = Partition(number, PARTITIONS, "murmur2", "customer-events")
        models = {record.model: Model(record)}
        replay = Replay(Function(DEFINITION), models, where, Checkpoint(0, 0, "layout"))
        at = 0
        while at < size:
            at += replay.batch(records.part(at, min(size, at + cut)))
        for name, count in (replay.checkpoint.counts | replay.checkpoint.changes).items():
            counts[name] = counts.get(name, 0) + count
        outputs = [output for output in replay.outputs if output.topic == "changes"]
        changes += [change_of(msgspec.json.decode(output.value or b"")) for output in outputs]
    return changes, counts


@given(
    customers=st.integers(100, 400),
    counted=st.integers(400, 1_500),
    zipf=st.sampled_from([0.0, 0.7, 1.1]),
    cut=st.sampled_from([97, 1_000, 5_000]),
)
def test_the_core_does_the_job(customers: int, counted: int, zipf: float, cut: int) -> None:
    job, what, wanted = made(customers, counted, zipf)
    changes, counts = core_changes(job, what, cut)
    compared = measure.compare(changes, wanted)
    assert compared["customers_on_a_border"] <= customers // 50
    assert counts["valid"] == what.before + len(what.paced)
    assert counts["time"] == 0  # no tick has moved anybody
    assert counts["behaviour"] > 0


class Hashes:
    """As much of Redis as the loop uses, in a dictionary; real servers: tests/integration."""

    def __init__(self) -> None:
        self.hashes: dict[str, dict[str, str]] = {}
        self.answers: list[object] = []

    def pipeline(self) -> "Hashes":
        self.answers = []
        return self

    def execute(self) -> list[object]:
        return self.answers

    def hincrby(self, key: str, field: str, amount: int) -> None:
        fields = self.hashes.setdefault(key, {})
        fields[field] = str(int(fields.get(field, 0)) + amount)
        self.answers.append(fields[field])

    def hset(self, key: str, field: str, value: int) -> None:
        self.hashes.setdefault(key, {})[field] = str(value)

    def hdel(self, key: str, *fields: str) -> None:
        for field in fields:
            del self.hashes[key][field]

    def hgetall(self, key: str) -> None:
        self.answers.append(dict(self.hashes.get(key, {})))
