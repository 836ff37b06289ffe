"""`benchmarks/peers` without servers: the job, its oracle, segstream's core, comparisons."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers import line_up
from benchmarks.peers.contents import Contents, Expected, contents, expected
from benchmarks.peers.job import DAY_MS, Axis, Change, Job, Oracle, features
from benchmarks.peers.measure import Differs, compare, together
from benchmarks.peers.model import CONFIG, fit, model_of
from benchmarks.peers.pace import change_of
from benchmarks.peers.report import verdicts
from benchmarks.peers.stand import Reading, TooShort, steady
from benchmarks.traffic import PARTITIONS, history, people
from consumers.settings import load
from segstream.core.batch import Checkpoint
from segstream.core.event import Headers, Records
from segstream.core.model import Model
from segstream.core.record import ModelActivated
from segstream.core.step import Function, Partition
from tests.harness import Replay

DEFINITION = load({"SEGSTREAM_CONFIG": str(CONFIG)}).definition
TODAY = 20_600


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
        headers: list[Headers] = [[("ce_type", b"segstream.model")], *[None] * (size - 1)]
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


@settings(max_examples=12)
@given(
    customers=st.integers(100, 400),
    counted=st.integers(400, 1_500),
    zipf=st.sampled_from([0.0, 0.7, 1.1]),
    cut=st.sampled_from([97, 1_000, 5_000]),
)
def test_the_core_does_the_job(customers: int, counted: int, zipf: float, cut: int) -> None:
    job, what, wanted = made(customers, counted, zipf)
    changes, counts = core_changes(job, what, cut)
    compared = compare(changes, wanted)
    assert compared["customers_on_a_border"] <= customers // 50
    assert counts["valid"] == what.before + len(what.paced)
    assert counts["time"] == 0  # no tick has moved anybody
    assert counts["behaviour"] > 0


# -- the oracle -----------------------------------------------------------------------


def call(event: str, day: float, total: float | None = None, user: str = "a") -> dict[str, object]:
    at = datetime.fromtimestamp(day * DAY_MS / 1000, UTC).isoformat()
    properties = {} if total is None else {"total": total}
    return {
        "type": "track",
        "event": event,
        "userId": user,
        "messageId": f"{event} {day:.2f}",
        "timestamp": at,
        "properties": properties,
    }


def after(*calls: dict[str, object]) -> list[float | None]:
    oracle = Oracle()
    for one in calls:
        oracle.take(0, one)
    return features(oracle.customers["a"], oracle.now[0])


def test_who_has_only_looked_has_no_recency_and_no_basket() -> None:
    assert after(call("Product Viewed", TODAY)) == [None, 0, 0, 1, 0, None]


def test_orders_are_counted_and_others_do_nothing() -> None:
    orders = [call("Order Completed", TODAY - 2, 10.1), call("Order Completed", TODAY - 1, 20.2)]
    others = [call("Order Refunded", TODAY, 5.0), call("Product Added", TODAY)]
    assert after(*orders, *others) == [1.0, 2, 30.3, 0, 1, 15.15]


def test_a_day_leaves_the_window_after_90_days_and_then_is_late() -> None:
    first = call("Order Completed", TODAY, 10.0)
    assert after(first, call("Product Viewed", TODAY + 89.9))[1] == 1
    assert after(first, call("Product Viewed", TODAY + 90))[1] == 0
    # The other customer moves the partition's clock.
    late = [call("Product Viewed", TODAY + 90, user="b"), call("Product Viewed", TODAY + 1)]
    assert after(*late, call("Product Viewed", TODAY))[3] == 1


def test_time_does_not_go_back() -> None:
    now = call("Product Viewed", TODAY + 1, user="b")
    assert after(now, call("Order Completed", TODAY, 1.0))[0] == 1.0


def test_a_change_is_told_once_and_borders_are_noted() -> None:
    axes = [Axis(name, 0.0, 0.0, 1.0) for name in ("r", "o", "s", "v", "a", "b")]
    far = [0.0, 0.0, 0.0, 3.0, 0.0, 0.0]
    oracle = Oracle(Job(axes, [[0.0] * 6, far]))
    records = [
        (0, b"a", json.dumps(call("Product Viewed", TODAY + n / 100)).encode()) for n in range(6)
    ]
    first, moved = oracle.feed(records)
    assert first == Change("a", None, 1, f"Product Viewed {TODAY}.00")
    # log1p(4 views) is beyond the middle, 1.5; log1p(3) is not.
    assert moved == Change("a", 1, 2, f"Product Viewed {TODAY}.03")
    assert not oracle.on_a_border
    even = Oracle(Job(axes, [far, far]))
    even.take(0, call("Product Viewed", TODAY))
    assert even.on_a_border == {"a"}


# -- what is compared and reported ----------------------------------------------------

CHAIN = [Change("a", None, 1, "m1"), Change("b", None, 2, "m2"), Change("a", 1, 2, "m3")]


@pytest.mark.parametrize(
    "changes",
    [
        CHAIN[:2],
        [*CHAIN, CHAIN[2]],
        [CHAIN[2], CHAIN[1], CHAIN[0]],
        [*CHAIN[:2], Change("a", 1, 3, "m3")],
        [*CHAIN[:2], Change("a", 1, 2, "m4")],
        [*CHAIN, Change("c", None, 1, "m5")],
    ],
)
def test_a_wrong_change_is_seen(changes: Sequence[Change]) -> None:
    with pytest.raises(Differs, match="not the oracle's"):
        compare(changes, Expected(CHAIN, 3, set()))


def test_customers_may_come_in_another_order_and_borders_are_left_out() -> None:
    wanted = Expected(CHAIN, 3, {"b"})
    found = compare([CHAIN[0], CHAIN[2], Change("b", None, 5, "m2")], wanted)
    assert found == {"changes": 3, "customers_compared": 1, "customers_on_a_border": 1}


def test_steady_is_between_commits_amid_the_work() -> None:
    done = [0, 0, 40, 40, 55, 70, 70, 90, 100, 100]
    readings = [Reading(float(i), i * 2.0, 0.0, 0.0, number) for i, number in enumerate(done)]
    assert steady(readings, 50, 100) == Reading(3.0, 6.0, 0.0, 0.0, 35)
    assert steady(readings, 80, 100) == Reading(1.0, 2.0, 0.0, 0.0, 10)
    with pytest.raises(TooShort, match="--events"):
        steady(readings, 95, 100)


def test_of_several_rounds_the_median_counts() -> None:
    rounds = [
        {"peer": "quix", "us_cpu": cpu, "p50_ms": None, "changes": 7} for cpu in (3.0, 1.0, 2.0)
    ]
    found = {"peer": "quix", "us_cpu": 2.0, "p50_ms": None, "changes": 7}
    assert together(rounds) == {**found, "us_cpu_of_rounds": [3.0, 1.0, 2.0]}
    failed = {"peer": "quix", "failed": "no answer"}
    assert together([*rounds, failed]) == failed


def test_targets_are_held_against_the_same_traffic() -> None:
    def result(peer: str, tuned: str, traffic: str, cpu: float) -> dict[str, object]:
        return {"peer": peer, "tuned": tuned, "traffic": traffic, "us_cpu": cpu}

    results = [
        result("segstream", "", "flat", 4.0),
        result("segstream", "", "hot", 6.0),
        result("streams", "tuned", "flat", 12.0),
        result("streams", "defaults", "hot", 24.0),
        result("floor", "", "hot", 1.0),
    ]
    found = [(v["traffic"], v["peer"], v["ratio"], v["reached"]) for v in verdicts(results)]
    assert found == [("flat", "streams", 3.0, True), ("hot", "floor", 0.167, False)]


def test_what_cannot_be_installed_is_skipped_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(line_up, "BUILD", tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    peers, absent = line_up.line_up(["quix", "floor"], lambda _: None)
    assert [peer.name for peer in peers] == ["floor"]
    assert absent["quix"].startswith("its environment cannot be made")
