"""`segstream simulate` into real Kafka: every call once, on its partition, read by a segmenter."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from segstream.core.hash import partitions_of
from segstream.shell.local import Servers
from segstream.shop import Shop
from tests.integration.deployment import HOME, Deployment, deployment, wait

Names = Callable[[str], str]
SHOP = Shop(seed=5, customers=100, days=35)
OPTIONS = ("--seed", "5", "--customers", "100", "--days", "35")


def expected() -> list[tuple[bytes, bytes]]:
    """(key, value) of all calls, in order."""
    return [
        (who.encode(), line.encode())
        for day in SHOP.by_day()
        for who, line in zip(day.who, day.lines, strict=True)
    ]


def in_the_log(made: Deployment) -> list[list[tuple[bytes, bytes]]]:
    """(key, value) by partition, in order; without the clock's."""
    logs = [made.read("customer-events", p) for p in made.partitions]
    return [[(m.key(), m.value()) for m in log if m.key() is not None] for log in logs]


def by_partition(made: Deployment) -> list[list[tuple[bytes, bytes]]]:
    calls, count = expected(), len(made.partitions)
    where = partitions_of([who for who, _ in calls], count, made.settings.topics.partitioner)
    return [[call for call, at in zip(calls, where, strict=True) if at == p] for p in range(count)]


def test_every_call_is_once_on_its_partition(
    servers: Servers, unique: Names, tmp_path: Path
) -> None:
    with deployment(servers, tmp_path, unique("simulated")) as made:
        made.create()
        truth = tmp_path / "truth.csv"
        done = made.command("simulate", *OPTIONS, "--truth", str(truth))
        assert done.returncode == 0, done.stderr
        assert f"{len(expected()):,} events sent, 0 were there already" in done.stderr
        assert in_the_log(made) == by_partition(made)
        assert len(truth.read_text().splitlines()) == 1 + len(SHOP.stays())
        again = made.command("simulate", *OPTIONS)
        assert f"0 events sent, {len(expected()):,} were there already" in again.stderr
        assert in_the_log(made) == by_partition(made)


def test_stopped_it_goes_on(servers: Servers, unique: Names, tmp_path: Path) -> None:
    """Slowly, so that Ctrl-C comes in between; then as fast as can be."""
    with deployment(servers, tmp_path, unique("simulated")) as made:
        made.create()
        with subprocess.Popen(
            [sys.executable, "-m", "consumers", "simulate", *OPTIONS, "--rate", "100"],
            env={**os.environ, **made.environment, "COLUMNS": "200"},
            cwd=HOME,
            text=True,
            stderr=subprocess.PIPE,
        ) as sending:
            try:
                wait(lambda: sum(made.end("customer-events", p) for p in made.partitions), "a call")
                sending.send_signal(signal.SIGINT)
                _, said = sending.communicate(timeout=40)
            finally:
                sending.kill()
        assert sending.returncode == 130, said
        assert "stopped: run it again to go on" in said
        rest = made.command("simulate", *OPTIONS)
        assert rest.returncode == 0, rest.stderr
        sent, there = (
            int(number.replace(",", ""))
            for number in re.findall(r"([\d,]+) (?:events sent|were there)", rest.stderr)
        )
        assert there > 0
        assert sent + there == len(expected())
        assert in_the_log(made) == by_partition(made)


def test_a_segmenter_takes_every_call(servers: Servers, unique: Names, tmp_path: Path) -> None:
    config = 'training = { first_customers = 40, segments = 3, maintain = "7d" }\n'
    with deployment(servers, tmp_path, unique("simulated"), config) as made:
        made.create()
        made.start("segmenter", "one")
        made.start("trainer", "trainer")
        played = made.command("simulate", *OPTIONS, "--as-lived")
        assert played.returncode == 0, played.stderr
        for slot in ("one", "trainer"):
            assert made.stop(slot)[0] == 0
        assert not any(made.read("customer-events-dlq", p) for p in made.partitions)
        assert any(made.read("segment-changes", p) for p in made.partitions)
        states = sum(made.checkpoint(p).customers for p in made.partitions)
        assert states == len({who for who, _ in expected()})
