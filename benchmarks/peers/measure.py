"""All peers, one after the other, between the same servers: CPU, speed, latency, equal changes.

A machine that others share is faster in one minute than in the next: peers that are compared run in
turn, several times, and of each figure the median counts.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median_low
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import KafkaException

from benchmarks.machine import facts
from benchmarks.peers.contents import Contents, Expected, contents, expected
from benchmarks.peers.job import Change, Job
from benchmarks.peers.line_up import Peer, line_up
from benchmarks.peers.model import fit
from benchmarks.peers.pace import Reader, send
from benchmarks.peers.stand import Reading, Run, Stalled, Stand, TooShort, stand, steady
from benchmarks.servers import Tell
from benchmarks.traffic import People, Traffic, history, people

SETTLING = 5.0
"""Seconds at the steady rate before latencies count."""


class Plan(NamedTuple):
    """What is measured. `traffics`: (name, Zipf exponent); `seconds` at the steady rate; `rounds`:
    how often each peer has its turn."""

    traffics: tuple[tuple[str, float], ...]
    names: tuple[str, ...]
    events: int
    customers: int
    seconds: float = 25.0
    rounds: int = 1


class Differs(RuntimeError):
    """A peer's changes are not the oracle's."""


@dataclass
class Course:
    """One kind of traffic and its job; what is sent to peers of the same share is the same."""

    job: Job
    who: People
    past: Traffic
    plan: Plan

    def __post_init__(self) -> None:
        self.of = lru_cache(self._of)  # of each share, for all rounds

    def _of(self, counted: int, paced: int) -> tuple[Contents, Expected]:
        what = contents(self.who, self.past, counted, paced)
        return what, expected(self.job, what)

    def for_peer(self, peer: Peer) -> tuple[Contents, Expected]:
        return self.of(int(self.plan.events * peer.share), int(self.plan.seconds * peer.rate))


def run(plan: Plan, tell: Tell, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """All figures, as they go into the JSON file; `keep` is given those so far after each peer."""
    peers, absent = line_up(plan.names, tell)
    results: list[dict[str, Any]] = []
    settings = {**plan._asdict(), "settling_seconds": SETTLING}
    found: dict[str, Any] = {"settings": settings, "absent": absent, "results": results}
    for traffic, zipf in plan.traffics:
        with tempfile.TemporaryDirectory(prefix="segstream-peers-") as directory:
            tell(f"{traffic} traffic (Zipf {zipf}): fitting the job")
            who = people(plan.customers, zipf)
            past = history(who)
            course = Course(fit(past), who, past, plan)
            with stand(Path(directory), tell) as on:
                found = facts(on.redis) | found
                start = len(results)
                rounds: list[list[dict[str, Any]]] = [[] for _ in peers]
                for turn in range(plan.rounds):
                    for number, peer in enumerate(peers):
                        one = _outcome(on, peer, course, turn * len(peers) + number)
                        rounds[number].append({"traffic": traffic, "zipf": zipf, **one})
                        results[start:] = [together(r) for r in rounds if r]
                        keep(found)
    return found


def together(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One peer's rounds as one result: the median of each figure, and the CPU of each round; or
    the one that failed."""
    for one in rounds:
        if "failed" in one:
            return dict(one)
    found = dict(rounds[0])
    for name in found:
        values = [one[name] for one in rounds]
        if all(isinstance(value, int | float) for value in values):
            found[name] = median_low(values)
    return {**found, "us_cpu_of_rounds": [one["us_cpu"] for one in rounds]}


def _outcome(on: Stand, peer: Peer, course: Course, number: int) -> dict[str, Any]:
    """Figures of one peer; what went wrong with it does not end the run of the others."""
    about = {"peer": peer.name, "tuned": peer.tuned, "delivery": peer.delivery}
    try:
        return {**about, **_one(on, peer, course, number)}
    except (Stalled, Differs, TooShort, KafkaException) as error:
        on.tell(str(error))
        return {**about, "failed": str(error).splitlines()[0]}


def _one(on: Stand, peer: Peer, course: Course, number: int) -> dict[str, Any]:
    on.tell(f"{peer.title}: what must come out")
    what, wanted = course.for_peer(peer)
    run = Run(on, peer, course.job, number)
    try:
        on.tell(f"{peer.title}: sending {what.before:,} calls, {len(what.counted):,} counted")
        on.load(run.input, what.records())
        with run.started():
            readings = run.follow(what.before)
            begin = len(what.past) + int(peer.warm * len(what.counted))
            found = _each(steady(readings, begin, what.before))
            on.tell(f"{peer.title}: {found['us_cpu']:.2f} µs of CPU each")
            if peer.output:
                found |= _paced(run, what, wanted)
    finally:
        run.close()
    return {"counted": len(what.counted), "not_counted": begin, **found}


def _each(passed: Reading) -> dict[str, Any]:
    """Per call, of a stretch of them."""
    micro = 1e6 / passed.done
    return {
        "us_cpu": round(passed.peer * micro, 3),
        "us_kafka": round(passed.kafka * micro, 3),
        "us_valkey": round(passed.valkey * micro, 3),
        "per_second": round(passed.done / passed.wall),
        "measured": passed.done,
    }


def _paced(run: Run, what: Contents, wanted: Expected) -> dict[str, Any]:
    """The steady rate, and whether all changes are right."""
    rate = run.peer.rate
    records = list(what.paced.records())
    reader = Reader(run.on.servers.bootstrap_servers, run.output, f"{run.name}-reader")
    try:
        reader.wait(wanted.before, 60)
        run.on.tell(f"{run.peer.title}: {len(records):,} calls at {rate:,.0f}/s")
        began = run.read()
        due = send(run, records, rate)
        ended = run.read()
        run.follow(what.before + len(records))
        reader.wait(len(wanted.changes), 10)
    finally:
        reader.close()
    compared = compare(reader.changes, wanted)
    settled = due[0] + SETTLING
    moments = {f"msg-{n:012d}": t for n, t in zip(what.paced.number.tolist(), due, strict=True)}
    waited = [
        (arrived - moments[change.event]) * 1000
        for change, arrived in zip(reader.changes, reader.arrived, strict=True)
        if moments.get(change.event, 0.0) >= settled
    ]
    p50, p99 = np.percentile(waited, [50, 99]).tolist() if waited else (None, None)
    passed = ended.since(began)
    return {
        "paced_per_second": rate,
        "p50_ms": None if p50 is None else round(p50, 1),
        "p99_ms": None if p99 is None else round(p99, 1),
        "latencies": len(waited),
        "us_cpu_paced": round(passed.peer / len(records) * 1e6, 2),
        **compared,
    }


def compare(changes: Sequence[Change], wanted: Expected) -> dict[str, int]:
    """How many changes are the oracle's, customer by customer; Differs if any is not."""
    found, right = _chains(changes), _chains(wanted.changes)
    wrong = [
        name
        for name in found.keys() | right.keys()
        if found.get(name) != right.get(name) and name not in wanted.on_a_border
    ]
    if wrong:
        name = min(wrong)
        raise Differs(
            f"changes of {len(wrong)} of {len(right)} customers are not the oracle's; of {name}: "
            f"{found.get(name, [])[-3:]}, not {right.get(name, [])[-3:]}"
        )
    return {
        "changes": len(changes),
        "customers_compared": len(right.keys() - wanted.on_a_border),
        "customers_on_a_border": len(wanted.on_a_border),
    }


def _chains(changes: Sequence[Change]) -> dict[str, list[Change]]:
    """The changes of each customer, in order."""
    chains: dict[str, list[Change]] = {}
    for change in changes:
        chains.setdefault(change.customer, []).append(change)
    return chains
