"""Two months of a shop through real Kafka, Valkey, segmenters and trainer, none of them left alone.

While the days are played, a segmenter joins, leaves and comes back; every process is ended once
by SIGTERM and once by SIGKILL, one of them exactly between its commit and its write. At the end
nothing of that shows: States, Checkpoints and every record are as the oracle says of the log.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from consumers.setup import target_of
from segstream.core.hash import customer_hash
from segstream.core.output import ms_text
from segstream.shell import files
from segstream.shell.local import Servers
from segstream.shell.replay import Call, replay
from segstream.shell.replay.barrier import Barrier
from tests.integration.deployment import Deployment, code_of, deployment, log_of, wait
from tests.integration.verdict import Verdict, headers_of

PRESETS = Path("segstream/presets")
DAY = 86_400_000
DAYS = 60
#: kept for the end, when all processes are there again
RESERVE = 8

MORE = """
tick.period = "12h"
hysteresis.hold = "2d"
panel.size = 180
training = { first_customers = 60, maintain = "3d", moved = 0, segments = 4 }

[measures.dearest]
kind = "last"
events = ["Order Completed"]
field = "properties.total"

[measures.countries]
kind = "distinct"
events = ["Order Completed"]
field = "properties.country"
values = ["United Kingdom", "France", "Germany"]

[features.countries]
expression = "countries[14d]"

[traits.plan]
kind = "choice"
values = ["gold", "silver"]
"""
# The preset with windows of 14 days, so that customers are forgotten within the two months.
MEASURES, _, _ = (PRESETS / "retail.toml").read_text().partition("[hysteresis]")
CONFIG = MORE + MEASURES.replace("90d", "14d").partition("\n\n")[2]


def shop() -> list[Call]:
    """Every fifth customer of the preset's first two months, and what real producers add to it."""
    mapping = files.load_mapping(PRESETS / "retail-year.toml")
    found: list[tuple[int, str | None, bytes]] = []
    first = 0
    for line, ms, raw, value in files.calls(PRESETS / "retail-year.csv.xz", mapping):
        assert ms is not None
        first = first or ms // DAY
        if ms // DAY - first >= DAYS:
            break
        if customer_hash(raw) % 5 == 0 if raw else line % 500 == 0:
            found.append((ms, raw, value))
            found += additions(len(found), ms, raw, value)
    return [(number, *call) for number, call in enumerate(found, 1)]


def additions(
    number: int, ms: int, raw: str | None, value: bytes
) -> Iterator[tuple[int, str | None, bytes]]:
    """Now and then: repeats, late and old events, traits, visitors, garbage."""
    match number % 50:
        case 7:
            yield ms, raw, value  # a duplicate
        case 14:
            yield ms, raw, json.dumps({**json.loads(value), "timestamp": ms_text(ms - 20 * DAY),
                                       "messageId": f"late-{number}"}).encode()  # fmt: skip
        case 21:
            yield ms, raw, json.dumps({**json.loads(value), "timestamp": ms_text(ms - 3 * DAY),
                                       "messageId": f"old-{number}"}).encode()  # fmt: skip
        case 28 if raw:
            plan = ("gold", "silver", "tin")[number % 3]
            call = {"type": "identify", "userId": raw, "traits": {"plan": plan}}
            yield ms, raw, json.dumps({**call, "timestamp": ms_text(ms)}).encode()
        case 35:
            visitor = f"visitor-{number % 7}"
            call = {"type": "track", "event": "Product Viewed", "anonymousId": visitor}
            yield ms, visitor, json.dumps({**call, "timestamp": ms_text(ms)}).encode()
        case 42:
            yield ms, raw, value[:-1]


@dataclass
class Play:
    """Plays the shop's days one by one, each as lived, while things happen to the processes."""

    at: Deployment
    calls: list[Call]
    pool: ThreadPoolExecutor
    days: list[int] = field(default_factory=list)
    played: int = 0

    def __post_init__(self) -> None:
        ends = [len(list(day)) for _, day in groupby(self.calls, lambda c: (c[1] or 0) // DAY)]
        self.days = [sum(ends[: i + 1]) for i in range(len(ends))]

    @property
    def left(self) -> int:
        return len(self.days) - self.played

    def start_day(self, *, as_lived: bool = True, days: int = 1) -> Future[Any]:
        """Send the next days; done when segmenters and trainer have handled them."""
        self.played += days
        calls = self.calls[: self.days[self.played - 1]]
        target = target_of(self.at.settings)
        return self.pool.submit(replay, calls, "shop" * 4, target, as_lived=as_lived)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Play on for as long as that takes."""
        while self.left > RESERVE and not condition():
            self.start_day().result(60)
        wait(condition, what, 40)


@pytest.fixture(scope="module")
def at(
    servers: Servers, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with deployment(servers, tmp_path_factory.mktemp("stream"), unique("stream"), CONFIG) as made:
        made.create()
        yield made


def owns(at: Deployment, *slots: str) -> Callable[[], bool]:
    return lambda: at.members().keys() == set(slots)


def join_and_leave(at: Deployment, play: Play) -> None:
    """A second segmenter comes in the middle, the first one goes and comes back, by SIGTERM."""
    at.start("segmenter", "one")
    at.start("trainer", "trainer")
    play.until(lambda: at.end("segment-models") > 0, "a first version")
    at.start("segmenter", "two")
    play.until(owns(at, "one", "two"), "the second joins")
    day = play.start_day()
    code, seconds = at.stop("one")
    assert (code, seconds < 5) == (0, True), log_of(at.running["one"])
    day.result(60)
    at.start("segmenter", "one")
    play.until(owns(at, "one", "two"), "the first comes back")
    day = play.start_day()
    assert at.stop("two")[0] == 0
    at.start("segmenter", "two")
    day.result(60)


def kill_between_commit_and_write(at: Deployment, play: Play) -> str:
    """SIGKILL a segmenter whose outputs are committed and whose States are not; its slot."""
    play.until(owns(at, "one", "two"), "both are there")
    play.start_day().result(60)  # all partitions are claimed, and N is at their ends
    midnight = (at.checkpoint(0).clock // DAY + 1) * DAY
    clock = json.dumps({"time": ms_text(midnight)}).encode()
    at.redis.execute_command("CLIENT", "PAUSE", 4_500, "WRITE")
    try:
        for p in at.partitions:  # a record that has outputs for certain: the day's marker
            at.send(p, clock, None, [("ce_type", b"segstream.clock")])

        def ahead() -> list[int]:
            return [p for p in at.partitions if at.published(p) > at.checkpoint(p).position]

        partition = wait(ahead, "W is ahead of N", 4)[0]
        (victim,) = [slot for slot, owned in at.members().items() if partition in owned]
        at.running[victim].kill()
    finally:
        at.redis.execute_command("CLIENT", "UNPAUSE")
    assert at.published(partition) > at.checkpoint(partition).position
    play.start_day().result(60)  # the other one takes over
    at.start("segmenter", victim)
    return victim


def end_the_trainer(at: Deployment, play: Play) -> None:
    """By SIGTERM; then by SIGKILL as soon as it has published a version."""
    code, seconds = at.stop("trainer")
    assert (code, seconds < 5) == (0, True), log_of(at.running["trainer"])
    at.start("trainer", "trainer")
    versions = at.end("segment-models")
    day = play.start_day()
    while at.end("segment-models") == versions:
        if day.done():
            day.result()
            day = play.start_day()
    at.running["trainer"].kill()
    at.start("trainer", "trainer")
    day.result(60)


def kill_under_load(at: Deployment, play: Play, slot: str) -> None:
    """All days that are left but one at once, and a SIGKILL among them."""
    play.until(owns(at, "one", "two"), "both are there")
    positions = [at.checkpoint(p).offset for p in at.partitions]
    sending = play.start_day(as_lived=False, days=play.left - 1)
    wait(lambda: [at.checkpoint(p).offset for p in at.partitions] != positions, "it moves")
    at.running[slot].kill()
    at.start("segmenter", slot)
    sending.result(60)
    play.start_day().result(60)


def strange_records(at: Deployment) -> None:
    """What a replay does not send: CloudEvents, nothing, control records, a wrong partition."""
    for p in at.partitions:
        now = ms_text(at.checkpoint(p).clock)
        call = {"type": "track", "event": "Product Viewed", "userId": "u"}
        timed = json.dumps({**call, "timestamp": now}).encode()
        event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "call", "time": now}
        wrapped = json.dumps({**event, "data": call}).encode()
        binary = [("ce_type", b"call"), ("ce_id", b"e-2"), ("ce_time", now.encode())]
        model = json.dumps({"version": 99, "digest": "0" * 64}).encode()
        old = json.dumps({"time": "2010-12-01T00:00:00Z"}).encode()
        at.send(p, timed, b"key", [("trace", b"\xff\x00")])
        at.send(p, wrapped, b"", [("content-type", b"application/cloudevents+json")])
        at.send(p, json.dumps(call).encode(), None, [("ce_specversion", b"1.0"), *binary])
        at.send(p, None, b"nothing")
        at.send(p, model, None, [("ce_type", b"segstream.model")])
        at.send(p, old, None, [("ce_type", b"segstream.clock")])
        at.send(p, b"{}", None, [("ce_type", b"segstream.erase")])


def jump(at: Deployment) -> None:
    """An event of the future: clamped to today; years are not walked, all others are forgotten."""
    call = {"type": "track", "event": "Product Viewed", "userId": "u"}
    for p in at.partitions:
        at.send(p, json.dumps({**call, "timestamp": "2100-01-01T00:00:00Z"}).encode())


@pytest.fixture(scope="module")
def verdict(at: Deployment) -> Verdict:
    calls = shop()
    with ThreadPoolExecutor(1) as pool:
        play = Play(at, calls, pool)
        join_and_leave(at, play)
        killed = kill_between_commit_and_write(at, play)
        strange_records(at)
        end_the_trainer(at, play)
        kill_under_load(at, play, "one" if killed == "two" else "two")
        jump(at)
        barrier = Barrier(target_of(at.settings), len(at.partitions), 40)
        assert barrier.wait("the end", lambda: False)
        barrier.close()
    at.works("one", "two")
    return Verdict(at, tomllib.loads(CONFIG))


def test_everything_is_as_the_oracle_says(verdict: Verdict) -> None:
    assert verdict.differences() == []


def test_the_stream_was_worth_the_test(verdict: Verdict) -> None:
    """All outcomes and all causes have occurred, on a panel that was thinned out."""
    assert len(verdict.models) >= 3
    counts, causes, levels = set(), set(), set()
    for partition in verdict.expected:
        counts |= {name for name, n in partition.checkpoint["counts"].items() if n}
        causes |= {name for name, n in partition.checkpoint["changes"].items() if n}
        levels.add(partition.checkpoint["level"])
    assert counts >= {"valid", "duplicates", "late", "dead_letters", "control", "skewed"}
    assert causes == {"first", "behaviour", "time", "model", "forgotten"}
    assert max(levels) > 0
    assert sum(len(log) for log in verdict.log.values()) > 5_000


def test_ids_of_changes_are_unique(verdict: Verdict, at: Deployment) -> None:
    ids = [headers_of(m)["ce_id"] for p in at.partitions for m in at.read("segment-changes", p)]
    assert len(ids) == len(set(ids)) > 500


def test_all_processes_end_well(verdict: Verdict, at: Deployment) -> None:
    """All at once by SIGTERM, as by Ctrl-C: exit code 0 in 5 s, and W follows to N."""
    old = json.dumps({"time": "2010-12-01T00:00:00Z"}).encode()
    for p in at.partitions:
        at.send(p, old, None, [("ce_type", b"segstream.clock")])  # moves N, without an output
    wait(at.caught_up, "N is at the end")
    for server in at.running.values():
        server.terminate()
    for server in at.running.values():
        server.wait(5)
        assert code_of(server) == 0, log_of(server)
    for p in at.partitions:
        assert at.published(p) == at.checkpoint(p).position
    assert "Traceback" not in "".join(map(log_of, at.running.values()))
