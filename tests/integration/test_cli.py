"""The `segstream` command as people use it: exit codes, and what it says."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from redis import Redis

from consumers import settings
from segstream.core.hash import partitions_of
from segstream.core.step import Function
from segstream.ports import Unavailable
from segstream.shell.local import Servers
from segstream.shell.view import _HEADER, Lookup, Standing
from tests.integration.deployment import HOME, Deployment, deployment, offspring, wait

Names = Callable[[str], str]
START = datetime(2026, 3, 1, 9, tzinfo=UTC)
CUSTOMERS, DAYS = 40, 12
SEGSTREAM = [sys.executable, "-m", "consumers"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def calls() -> Iterator[dict[str, Any]]:
    """Some buy once, some every day, and some turn from the one into the other."""
    for day in range(DAYS):
        for n in range(CUSTOMERS):
            often = n % 2 == 0 or (n % 5 == 0 and day > 8)
            if day != n % 3 and not (often and day > 1):
                continue
            yield {
                "type": "track",
                "event": "Order Completed",
                "userId": f"c-{n}",
                "messageId": f"m-{day}-{n}",
                "timestamp": (START + timedelta(days=day, minutes=n)).isoformat(),
                "properties": {"total": 500.0 if often else 20},
            }


LINES = [json.dumps(call) for call in calls()]


def calls_file(home: Path) -> Path:
    path = home / "calls.jsonl"
    path.write_text("\n".join(LINES) + "\n")
    return path


@pytest.fixture(scope="module")
def shop(
    servers: Servers, unique: Names, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Twelve days that `segstream replay --as-lived` has played; all processes have ended."""
    home = tmp_path_factory.mktemp("shop")
    config = 'training = { first_customers = 20, segments = 2, maintain = "3d" }\n'
    with deployment(servers, home, unique("shop"), config) as made:
        done = made.command("topics", "create")
        assert done.returncode == 0, done.stderr
        assert f"created {made.topic('customer-events')}" in done.stdout
        made.start("segmenter", "one")
        made.start("trainer", "trainer")
        played = made.command("replay", str(calls_file(home)), "--as-lived")
        assert played.returncode == 0, played.stderr
        assert f"{len(LINES):,} sent, 0 were there already" in played.stdout
        for slot in ("one", "trainer"):
            assert made.stop(slot)[0] == 0
        yield made


def test_create_and_check_topics(shop: Deployment) -> None:
    again = shop.command("topics", "create")
    assert (again.returncode, again.stdout) == (0, "nothing was missing\n")
    check = shop.command("topics", "check")
    assert (check.returncode, check.stdout) == (0, "all topics are as they should be\n")
    shop_of_7 = {**shop.environment, "SEGSTREAM_PARTITIONS": "7"}
    wrong = Deployment(shop_of_7, shop.family).command("topics", "check")
    assert wrong.returncode == 1
    assert "has 4 partitions, 7 are configured: set topics.partitions = 4" in wrong.stdout


def test_a_replay_is_not_doubled(shop: Deployment, tmp_path: Path) -> None:
    before = [shop.end("customer-events", p) for p in shop.partitions]
    again = shop.command("replay", str(calls_file(tmp_path)))
    assert again.returncode == 0
    assert f"0 sent, {len(LINES):,} were there already" in again.stdout
    assert [shop.end("customer-events", p) for p in shop.partitions] == before


def test_a_stopped_replay_goes_on(servers: Servers, unique: Names, tmp_path: Path) -> None:
    """Ctrl-C while it waits for workers that do not run: exit code 130, and nothing is lost."""
    file = calls_file(tmp_path)
    with deployment(servers, tmp_path, unique("resumed")) as made:
        made.create()
        with running(made.environment, "replay", str(file), "--as-lived") as sending:
            wait(lambda: sum(made.end("customer-events", p) for p in made.partitions), "a record")
            out, _ = interrupt(sending)
        assert sending.returncode == 130
        assert "stopped: run it again to go on" in out
        rest = made.command("replay", str(file))
        assert rest.returncode == 0
        sent, there = map(int, re.findall(r"(\d+) (?:sent|were)", rest.stdout))
        assert sent + there == len(LINES)
        assert there > 0
        logs = [made.read("customer-events", p) for p in made.partitions]
        values = [m.value() for log in logs for m in log if m.key() is not None]
        assert sorted(values) == sorted(line.encode() for line in LINES)


def test_files_that_cannot_be_replayed(shop: Deployment, tmp_path: Path) -> None:
    for name in ("missing.jsonl", "missing.csv"):
        missing = shop.command("replay", str(tmp_path / name))
        assert missing.returncode == 1
        assert "No such file" in missing.stderr
    table = tmp_path / "table.csv"
    table.write_text("a,b\n1,2\n")
    assert shop.command("replay", str(table)).returncode == 1


# -- looking ---------------------------------------------------------------------------


def test_inspect_shows_one_customer(shop: Deployment) -> None:
    text = shop.command("inspect", "c-0")
    assert text.returncode == 0, text.stderr
    partition = int(partitions_of([b"c-0"], 4, "murmur2")[0])
    assert f"c-0 on partition {partition}" in text.stdout
    assert "distance to each segment" in text.stdout
    assert "orders[90d]" in text.stdout
    seen = json.loads(shop.command("inspect", "c-0", "--json").stdout)
    assert seen["accepted"] == sum(json.loads(line)["userId"] == "c-0" for line in LINES)
    assert seen["terms"]["orders[90d]"] == seen["accepted"]
    assert seen["segment"] == seen["why"]["to"]["segment"]
    assert min(seen["distances"].values()) == seen["distances"][str(seen["segment"])]


def test_inspect_says_that_nobody_is_there(shop: Deployment) -> None:
    nobody = shop.command("inspect", "nobody")
    assert nobody.returncode == 1
    assert "customer 'nobody' has no State" in " ".join(nobody.stderr.split())
    assert "Traceback" not in nobody.stderr


def test_segments_shows_the_active_model(shop: Deployment) -> None:
    text = shop.command("segments")
    assert text.returncode == 0, text.stderr
    model = json.loads(shop.command("segments", "--json").stdout)
    assert model["model"] == max(shop.checkpoint(p).model for p in shop.partitions)
    assert f"model {model['model']} of" in text.stdout
    for segment in model["segments"]:
        assert segment["name"] in text.stdout
    assert sum(model["customers"].values()) == CUSTOMERS


def test_watch_follows_the_changes_until_ctrl_c(shop: Deployment) -> None:
    wanted = [
        json.loads(m.value()) for p in shop.partitions for m in shop.read("segment-changes", p)
    ]
    assert len(wanted) >= CUSTOMERS
    with running(shop.environment, "watch", "--beginning", "--json") as watching:
        assert watching.stdout is not None
        found = [json.loads(watching.stdout.readline()) for _ in wanted]
        out, errors = interrupt(watching)
    assert (watching.returncode, out, errors) == (0, "", "")
    assert sorted(map(str, found)) == sorted(map(str, wanted))


def test_events_shows_the_log_of_a_customer(shop: Deployment) -> None:
    done = shop.command("events", "c-1")
    own = [line for line in LINES if '"c-1"' in line]
    assert done.returncode == 0, done.stderr
    assert f"{len(own)} events of c-1 on partition" in done.stdout
    for line in own:
        assert json.loads(line)["messageId"] in done.stdout


def test_servers_that_do_not_answer(shop: Deployment) -> None:
    """One line on stderr and exit code 1, no traceback."""
    nowhere = {**shop.environment, "SEGSTREAM_REDIS_URL": "redis://127.0.0.1:1/0"}
    done = Deployment(nowhere, shop.family).command("inspect", "c-0")
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


# -- settings --------------------------------------------------------------------------


def test_settings_are_shown_and_checked(shop: Deployment) -> None:
    check = shop.command("config", "check")
    assert check.returncode == 0
    assert "the settings are fine: 7 features" in check.stdout
    shown = json.loads(shop.command("config", "show").stdout)
    assert shown["layout"] == shop.settings.layout
    assert shown["training"]["first_customers"] == 20


def test_all_mistakes_are_named_at_once(shop: Deployment, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        'namespce = "a"\ntopics.partitions = 0\nhysteresis.clear = 2\n'
        '[features.x]\nexpression = "orders[90d] +"\n'
    )
    environment = {**os.environ, "SEGSTREAM_CONFIG": str(wrong), "SEGSTREAM_TYPO": "1"}
    for command in ("check", "show"):
        done = subprocess.run(
            [*SEGSTREAM, "config", command],
            env=environment, cwd=HOME, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        for path in (
            "namespce", "topics.partitions", "hysteresis.clear", "features.x.expression",
            "SEGSTREAM_TYPO",
        ):  # fmt: skip
            assert path in done.stderr, done.stderr


def test_wrong_usage(shop: Deployment) -> None:
    for arguments in (["run", "nothing"], ["inspect"]):
        done = shop.command(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


# -- downstream ------------------------------------------------------------------------


def test_the_example_hears_of_every_move(shop: Deployment) -> None:
    """examples/personalize.py: a line for each customer whose last move was not the model's."""
    example = [sys.executable, "examples/personalize.py", shop.topic("segment-changes")]
    lookup = Lookup(shop.redis, shop.settings.namespace)
    welcome = [
        f"{change['customer']}: welcome to {change['to']['name']}\n"
        for p in shop.partitions
        for m in shop.read("segment-changes", p)
        if (change := json.loads(m.value()))["to"] and change["cause"] != "model"
        and lookup(change["customer"]).sequence == change["sequence"]  # type: ignore[union-attr]
    ]  # fmt: skip
    assert len(welcome) > CUSTOMERS / 2
    with started(example, shop.environment) as process:
        assert process.stdout is not None
        found = [process.stdout.readline() for _ in welcome]
        interrupt(process)
    assert process.returncode == 0
    assert sorted(found) == sorted(welcome)


def test_lookup_reads_segment_and_since(shop: Deployment, unique: Names) -> None:
    """One GET for each customer, of the header that all States share."""
    dtype = Function(shop.settings.definition).layout.dtype
    fields: Any = dtype.fields
    assert [fields[name][1] for name in ("since", "segment", "sequence")] == [24, 40, 52]
    assert _HEADER.size == 52 + 4
    lookup = Lookup(shop.redis, shop.settings.namespace)
    memberships = {
        m.key().decode(): json.loads(m.value())
        for p in shop.partitions
        for m in shop.read("customer-segments", p)
    }
    for customer, membership in memberships.items():
        since = datetime.fromisoformat(membership["since"])
        ms = round(since.timestamp() * 1000)
        assert lookup(customer) == Standing(membership["segment"], ms, membership["sequence"])
    assert lookup("nobody") is None
    with pytest.raises(Unavailable, match="no worker has run"):
        Lookup(shop.redis, unique("nothing"))


# -- commands that start servers -------------------------------------------------------


@linux
def test_up_is_usable_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "data"
    elsewhere = {  # of this shell, for the servers in production
        "SEGSTREAM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
        "SEGSTREAM_KAFKA_SASL_MECHANISM": "PLAIN",
        "SEGSTREAM_KAFKA_SASL_USERNAME": "segmenter",
        "SEGSTREAM_KAFKA_SASL_PASSWORD": "hush",
        "SEGSTREAM_REDIS_PASSWORD": "hush",
    }
    marked = {"TMPDIR": str(tmp_path), **elsewhere}
    with running(marked, "up", "--directory", str(home), "--segmenters", "1") as up:
        assert up.stdout is not None
        variables = {}
        for line in up.stdout:
            if found := re.search(r"export (\w+)=(\S+)", line):
                variables[found[1]] = found[2]
            if "Ctrl-C" in line:
                break
        assert len(variables) == 2, up.stderr and up.stderr.read()
        uses(variables)
        interrupt(up)
    assert up.returncode == 0
    assert offspring("TMPDIR", str(tmp_path)) == []
    with (home / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def uses(variables: dict[str, str]) -> None:
    """An event goes in, a State comes out."""
    here = settings.load(variables)
    producer = Producer({**here.kafka, "partitioner": "murmur2_random", "log_level": 0})
    producer.produce("customer-events", LINES[0].encode(), b"c-0")
    assert producer.flush(20) == 0
    redis = Redis.from_url(here.redis.url)
    wait(lambda: redis.keys("segstream:*:c:c-0"), "a State", 30)


@linux
@pytest.mark.parametrize("phase", ["start", "replay"])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, phase: str) -> None:
    """Ctrl-C at whatever time: exit code 130, no process, no file."""
    with running({"TMPDIR": str(tmp_path)}, "demo", "--json") as demo:
        if phase == "start":
            wait(lambda: "valkey-server" in str(offspring("TMPDIR", str(tmp_path))), "Valkey", 40)
        else:
            wait(lambda: states_in(tmp_path), "a State", 60)
        out, errors = interrupt(demo)
    assert demo.returncode == 130, errors
    assert out == ""
    assert errors.rstrip().endswith("stopped")
    assert "Traceback" not in errors
    assert offspring("TMPDIR", str(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def states_in(home: Path) -> bool:
    """Whether the demo below `home` has got as far as writing States."""
    for log in home.glob("segstream-demo-*/valkey/appendonlydir/*.incr.aof"):
        with suppress(FileNotFoundError):
            return b":c:" in log.read_bytes()
    return False


# -- processes -------------------------------------------------------------------------


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process of its own session, as in another terminal; killed if it is still there."""
    with subprocess.Popen(
        command, env={**os.environ, **environment, "COLUMNS": "200"}, cwd=HOME, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def running(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`segstream …`"""
    with started([*SEGSTREAM, *arguments], environment) as process:
        yield process


def interrupt(process: subprocess.Popen[str], seconds: float = 40) -> tuple[str, str]:
    """Ctrl-C; what it said from here on, until it has ended."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=seconds)
    print(f"ended {time.monotonic() - began:.1f} s after SIGINT")
    return out, errors
