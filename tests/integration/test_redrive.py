"""`segstream redrive` on real servers: each letter once, whatever ends it, and never by accident.

First with letters of a real segmenter, whose cause is mended or is not; then with letters that are
written as the segmenter writes them, each test on a partition of its own.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from typing import Any

import pytest
from confluent_kafka import Producer
from rich.console import Console

from consumers.redrive import Redrive, wanted
from segstream.core.forward import APPENDED, LARGEST, LARGEST_STRAY
from segstream.core.hash import partitions_of
from segstream.core.output import dead_letter, error, ms_text
from segstream.core.redrive import REDRIVEN, Letter, Marker, read
from segstream.ports import Unavailable
from segstream.shell.local import Servers
from tests.harness import RETAIL
from tests.integration.deployment import HOME, Deployment, deployment, wait
from tests.integration.interrupted import RECORDS
from tests.integration.test_cli import interrupt, running
from tests.integration.verdict import Verdict

Names = Callable[[str], str]
Header = tuple[str, bytes | None]
DLQ, EVENTS = "customer-events-dlq", "customer-events"
OLD = b'{"time":"2010-12-01T00:00:00Z"}'
NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z
YESTERDAY = time.time_ns() // 1_000_000 - 86_400_000


def redrive(
    at: Deployment,
    reasons: Sequence[str] = (),
    partition: int | None = None,
    since: str | None = None,
    until: str | None = None,
    *,
    again: bool = False,
    limit: int | None = None,
) -> dict[str, Any]:
    """`segstream redrive --yes --json …`, in this process."""
    run = Redrive(at.settings, sends=True)
    only = None if partition is None else [partition]
    chosen = wanted(at.settings, reasons, only, since, until)
    run.look(chosen, again=again, limit=limit, stop=lambda: False)
    if run.number:
        run.send(100_000, Console(file=StringIO()), lambda: False)
    return run.figures()


def append(
    at: Deployment, topic: str, partition: int, value: bytes | None, key: bytes | None = None,
    headers: list[Header] | None = None, **settings: Any,
) -> None:  # fmt: skip
    """A record of any size."""
    large = {"message.max.bytes": 12 << 20, "compression.type": "zstd"}
    producer = Producer({**at.kafka, **large, **settings})
    kept: Any = headers
    producer.produce(at.topic(topic), value, key, partition, headers=kept)
    assert producer.flush(30) == 0


def ends(at: Deployment) -> list[int]:
    return [at.end(topic, p) for topic in (DLQ, EVENTS) for p in at.partitions]


def redriven(message: Any) -> str | None:
    """The letter that a record was sent again from."""
    found = dict(message.headers() or []).get("segstream.redriven")
    return None if found is None else found.decode()


# -- letters of a real segmenter -------------------------------------------------------


def call(user: str | None, **fields: Any) -> bytes:
    body = {"type": "track", "event": "Order Completed", "userId": user, **fields}
    return json.dumps(body).encode()


def home(at: Deployment, raw: str) -> int:
    return int(partitions_of([raw.encode()], len(at.partitions), "murmur2")[0])


def settle(at: Deployment) -> None:
    """All that was sent is computed, and all that was forwarded from it."""
    for _ in range(2):  # what is forwarded before the first one stands before the second one
        offsets = [at.send(p, OLD, None, [("ce_type", b"segstream.clock")]) for p in at.partitions]
        wait(lambda: all(at.checkpoint(p).offset > offsets[p] for p in at.partitions), "N", 40)  # noqa: B023


@pytest.fixture(scope="module")
def shop(
    servers: Servers, unique: Names, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A segmenter has made letters of many reasons."""
    with deployment(servers, tmp_path_factory.mktemp("redrive"), unique("redrive")) as made:
        made.create()
        made.start("segmenter", "one")
        at = ms_text(YESTERDAY)
        for user in ("u-1", "u-2"):
            hops: list[tuple[str, bytes]] = [("trace", b"\xff\x00"), ("segstream.hops", b"3")]
            away = (home(made, user) + 1) % len(made.partitions)
            made.send(home(made, user), call(user, timestamp=at, properties={"total": 7}))
            fields = {"timestamp": at, "messageId": "m-1"} if user == "u-1" else {}
            made.send(away, call(user, properties={"total": 5}, **fields), b"\xfekey", hops)
        for user in ("v-1", "v-2", "v-3"):
            made.send(home(made, user), call(user, properties={"total": "much"}))
        made.send(0, b'{"type":', b"", [("segstream.errors.reason", b"forged")])
        made.send(1, None, None)
        made.send(2, call(None))
        made.send(3, call("u-1", timestamp="yesterday"))
        made.send(0, b"{}", None, [("ce_type", b"segstream.erase")])
        append(made, EVENTS, 1, b"x" * (LARGEST_STRAY + 1))
        append(made, EVENTS, 1, b"x" * (LARGEST + 1))
        settle(made)
        yield made


COUNTS = {"control": 1, "customer": 1, "json": 3, "partition": 2, "size": 1, "timestamp": 1,
          "value": 3}  # fmt: skip


def counted(found: dict[str, Any], what: str) -> dict[str, int]:
    return {reason: tally[what] for reason, tally in found["reasons"].items() if tally[what]}


def test_a_dry_run_says_what_there_is_and_changes_nothing(shop: Deployment) -> None:
    before = ends(shop)
    text = shop.command("redrive", "--dry-run")
    found = json.loads(shop.command("redrive", "--dry-run", "--json").stdout)
    assert ends(shop) == before
    assert text.returncode == 0, text.stderr
    assert counted(found, "letters") == COUNTS
    expected = {reason: n for reason, n in {**COUNTS, "json": 2}.items() if reason != "size"}
    assert counted(found, "to_send") == expected
    assert (found["dry_run"], found["sent"], found["to_send"]) == (True, 0, 10)
    lines = [line.split() for line in text.stdout.splitlines()]
    assert [line[1] for line in lines if line and line[0] in COUNTS and line[1].isdigit()] == [
        str(COUNTS[reason]) for reason in sorted(COUNTS)
    ]
    large = [m.offset() for m in shop.read(EVENTS, 1) if len(m.value() or b"") > 1 << 20]
    assert [place["offset"] for place in found["too_large"]] == large
    for offset in large:
        assert f"{shop.topic(EVENTS)}, partition 1, offset {offset}" in text.stdout
    assert "properties.total = 'much' is not a number" in text.stdout
    assert text.stdout.endswith("dry run: 10 would be sent\n")


def test_without_a_terminal_it_does_not_ask(shop: Deployment) -> None:
    before = ends(shop)
    done = shop.command("redrive")
    assert done.returncode == 2
    assert "add it, or only look with --dry-run" in done.stderr
    assert ends(shop) == before


def test_what_is_mended_is_accepted_at_its_own_time(shop: Deployment) -> None:
    """Calls that were forwarded too often go on their way once more, and only once."""
    strays = [m for p in shop.partitions for m in shop.read(DLQ, p)
              if dict(m.headers())["segstream.errors.reason"] == b"partition"]  # fmt: skip
    assert len(strays) == 2
    found = redrive(shop, ["partition"])
    assert (found["sent"], counted(found, "to_send")) == (2, {"partition": 2})
    settle(shop)
    log = {p: shop.read(EVENTS, p) for p in shop.partitions}
    for letter in strays:
        said = read(letter.partition(), letter.headers())
        assert isinstance(said, Letter)
        name = f"{letter.partition()}-{letter.offset()}"
        original = next(m for m in log[letter.partition()] if m.offset() == said.origin.offset)
        (again,) = [m for m in log[letter.partition()] if redriven(m) == name]
        assert (again.key(), again.value()) == (original.key(), original.value())
        first = ms_text(original.timestamp()[1]).encode()
        added = [("segstream.appended", first), ("segstream.redriven", name.encode())]
        assert again.headers() == [("trace", b"\xff\x00"), *added]
        user = json.loads(original.value())["userId"]
        (there,) = [m for m in log[home(shop, user)] if redriven(m) == name]
        assert (there.key(), there.value()) == (original.key(), original.value())
        seen = json.loads(shop.command("inspect", user, "--json").stdout)
        assert (seen["accepted"], seen["terms"]["orders[90d]"]) == (2, 2)
        # without a time of its own: that at which it first came, not that of the redrive
        assert seen["last"] == (YESTERDAY if user == "u-1" else original.timestamp()[1])
    nothing = redrive(shop, ["partition"])
    assert (nothing["sent"], counted(nothing, "sent_before")) == (0, {"partition": 2})


def test_what_is_not_mended_is_a_dead_letter_again(shop: Deployment) -> None:
    assert redrive(shop, ["value"])["sent"] == 3
    settle(shop)
    found = json.loads(shop.command("redrive", "--dry-run", "--json", "--reason", "value").stdout)
    (tally,) = found["reasons"].values()
    names = ("letters", "sent_before", "failed_again", "to_send")
    assert [tally[name] for name in names] == [6, 3, 3, 3]
    again = shop.command("redrive", "--dry-run", "--json", "--reason", "value", "--again")
    assert json.loads(again.stdout)["to_send"] == 3, "they have other names now"
    letters = [m for p in shop.partitions for m in shop.read(DLQ, p)
               if isinstance(said := read(p, m.headers()), Letter) and said.before]  # fmt: skip
    assert len(letters) == 3
    for letter in letters:
        said = read(letter.partition(), letter.headers())
        assert isinstance(said, Letter)
        origin = next(m for m in shop.read(EVENTS, letter.partition())
                      if m.offset() == said.origin.offset)  # fmt: skip
        assert letter.value() == origin.value()
        assert letter.headers()[: len(origin.headers())] == origin.headers()


def test_all_of_it_is_as_the_oracle_says(shop: Deployment) -> None:
    """Also every letter of a letter: the log says what must have come out."""
    settle(shop)
    assert Verdict(shop, RETAIL).differences() == []


# -- letters as the segmenter writes them ----------------------------------------------


class Letters:
    """A partition of its own, of a deployment without a segmenter."""

    def __init__(self, at: Deployment, partition: int) -> None:
        self.at, self.partition = at, partition
        self.only = ("--partition", str(partition))
        self.written = 0

    def write(self, number: int, reason: str = "value", first: int = NOON, **more: Any) -> None:
        """Letters of records that came every minute; in a transaction left open with `producer`."""
        producer = more.get("producer") or Producer(self.at.kafka)
        for i in range(number):
            offset = str(self.written)
            errors = {"reason": reason, "message": "so it is", "topic": self.at.topic(EVENTS),
                      "partition": str(self.partition), "offset": offset,
                      "at": ms_text(first + 60_000 * i)}  # fmt: skip
            came: list[Header] = [("n", offset.encode()), ("n", None)]
            said = [error(name, text) for name, text in errors.items()]
            key, value, headers = dead_letter(
                key=b"k", value=b"v-%d" % self.written, headers=came, errors=said
            )
            kept: Any = headers
            producer.produce(self.at.topic(DLQ), value, key, self.partition, headers=kept)
            self.written += 1
        assert producer.flush(30) == 0

    def redrive(self, reasons: Sequence[str] = (), **options: Any) -> dict[str, Any]:
        return redrive(self.at, reasons, self.partition, **options)

    def names(self) -> list[str]:
        """Of all letters, in their order."""
        return [f"{self.partition}-{m.offset()}" for m in self.at.read(DLQ, self.partition)
                if isinstance(read(self.partition, m.headers()), Letter)]  # fmt: skip

    def sent(self) -> Counter[str | None]:
        """How often each was sent; each as it came, and each with its marker."""
        markers = Counter(
            said.name
            for m in self.at.read(DLQ, self.partition)
            if isinstance(said := read(self.partition, m.headers()), Marker)
        )
        letters = dict(zip(self.names(), itertools.count(), strict=False))
        found: Counter[str | None] = Counter()
        for m in self.at.read(EVENTS, self.partition):
            name = redriven(m)
            assert name is not None
            n = b"%d" % letters[name]
            assert (m.key(), m.value()) == (b"k", b"v-" + n)
            assert m.headers()[:2] == [("n", n), ("n", None)]
            assert [name for name, _ in m.headers()[2:]] == [APPENDED, REDRIVEN]
            found[name] += 1
        assert found == markers
        return found

    def interrupted(self, *when: str) -> subprocess.Popen[str]:
        """A redrive of this partition that a signal meets at a commit."""
        module = ["-m", "tests.integration.interrupted", *when]
        return subprocess.Popen(
            [sys.executable, *module, "redrive", "--yes", "--rate", "100000", *self.only],
            env={**os.environ, **self.at.environment}, cwd=HOME, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture(scope="module")
def board(
    servers: Servers, unique: Names, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Iterator[Letters]]:
    home = tmp_path_factory.mktemp("letters")
    with deployment(servers, home, unique("letters"), "topics.partitions = 12\n") as made:
        made.create()
        yield (Letters(made, partition) for partition in made.partitions)


@pytest.fixture
def letters(board: Iterator[Letters]) -> Letters:
    return next(board)


def test_filters_take_what_they_name(letters: Letters) -> None:
    letters.write(10)
    letters.write(5, reason="schema")
    since, until = ms_text(NOON + 2 * 60_000), ms_text(NOON + 6 * 60_000)
    assert letters.redrive(["value"], since=since, until=until)["sent"] == 4
    names = letters.names()
    assert letters.sent() == Counter(names[2:6])
    found = letters.redrive(limit=3)  # minute 0, minute 0, minute 1
    assert counted(found, "to_send") == {"value": 2, "schema": 1}
    assert letters.sent() == Counter([*names[:2], *names[2:6], names[10]])
    assert letters.redrive(until="5000d")["sent"] == 0
    assert letters.redrive()["sent"] == 8
    assert letters.sent() == Counter(names)


def test_only_again_sends_a_letter_twice(letters: Letters) -> None:
    letters.write(30)
    first = letters.at.command("redrive", "--yes", *letters.only)
    assert re.search(r"^30 sent \(.* s\)$", first.stdout, re.MULTILINE), first.stderr
    second = letters.at.command("redrive", "--yes", *letters.only)
    assert second.returncode == 0
    assert second.stdout.endswith("were sent before: --again sends them once more\n")
    assert letters.sent() == Counter(letters.names())
    assert letters.redrive(again=True, limit=10)["sent"] == 10
    assert letters.sent() == Counter([*letters.names(), *letters.names()[:10]])


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_a_commit(letters: Letters, when: str) -> None:
    """SIGKILL; the next run sends exactly what is missing."""
    letters.write(5 * RECORDS)
    killed = letters.interrupted("KILL", when, "3")
    out, errors = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, out + errors
    done = {"before": 2, "after": 3}[when] * RECORDS
    rest = letters.redrive()
    assert (rest["sent"], counted(rest, "sent_before")) == (5 * RECORDS - done, {"value": done})
    assert letters.sent() == Counter(letters.names())


def test_a_second_redrive_ends_the_first(letters: Letters) -> None:
    """Frozen before a commit, overtaken, and woken up: it must not commit any more."""
    letters.write(5 * RECORDS)
    first = letters.interrupted("STOP", "before", "3")
    wait(lambda: "T" in state_of(first.pid), "it is frozen", 40)
    assert letters.redrive()["sent"] == 3 * RECORDS
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    said = " ".join(errors.split())
    assert f"{2 * RECORDS} of {5 * RECORDS} were sent, then it ended: another redrive" in said
    assert "Traceback" not in said
    assert letters.sent() == Counter(letters.names())


def test_of_two_at_once_the_later_one_sends(letters: Letters) -> None:
    """It has fenced the other one before it looked; and the other one does not fence it in turn."""
    letters.write(3)
    chosen = wanted(letters.at.settings, None, [letters.partition], None, None)
    first, second = (Redrive(letters.at.settings, sends=True) for _ in range(2))
    for run in (second, first):
        run.look(chosen, again=False, limit=None, stop=lambda: False)
        assert run.number == 3
    with pytest.raises(Unavailable, match="0 of 3 were sent, then it ended: another redrive"):
        first.send(1_000, Console(file=StringIO()), lambda: False)
    second.send(1_000, Console(file=StringIO()), lambda: False)
    assert second.sent == 3
    assert letters.sent() == Counter(letters.names())


def state_of(pid: int) -> str:
    """As `ps` says it: T is stopped."""
    return subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout


def test_ctrl_c_ends_it_between_two_transactions(letters: Letters) -> None:
    letters.write(100)
    topic, at = letters.at.topic(EVENTS), letters.at
    with running(at.environment, "redrive", "--yes", "--rate", "10", *letters.only) as sending:
        wait(lambda: at.end(EVENTS, letters.partition) > 10, f"something in {topic}", 40)
        out, errors = interrupt(sending)
    assert sending.returncode == 130, errors
    said = re.search(r"^(\d+) sent \(.* s\), stopped: (\d+) are left, run it again to go on$",
                     out, re.MULTILINE)  # fmt: skip
    assert said, out
    sent, left = map(int, said.groups())
    assert (sum(letters.sent().values()), sent + left) == (sent, 100)
    assert letters.redrive()["sent"] == left
    assert letters.sent() == Counter(letters.names())


@pytest.mark.parametrize("end", ["commit", "abort"])
def test_an_open_transaction_is_waited_for(letters: Letters, end: str) -> None:
    """What stands behind it could be markers."""
    letters.write(3)
    open_ = Producer({**letters.at.kafka, "transactional.id": f"open-{letters.partition}"})
    open_.init_transactions(30)
    open_.begin_transaction()
    letters.write(2, producer=open_)
    letters.write(1)  # behind it, and plain: hidden as well
    with running(letters.at.environment, "redrive", "--dry-run", "--json", *letters.only) as looks:
        with pytest.raises(subprocess.TimeoutExpired):
            looks.wait(4)
        if end == "commit":
            open_.commit_transaction(30)
        else:
            open_.abort_transaction(30)
        out, errors = looks.communicate(timeout=40)
    assert looks.returncode == 0, errors
    assert json.loads(out)["to_send"] == {"commit": 6, "abort": 4}[end]


def test_records_of_others_are_left_alone(letters: Letters) -> None:
    letters.write(1)
    at, p = letters.at, letters.partition
    append(at, DLQ, p, b"hello")
    append(at, DLQ, p, None, None, [("segstream.errors.reason", b"value")])
    found = letters.redrive()
    assert (found["sent"], found["unknown"]) == (1, 2)
    assert letters.sent() == Counter(letters.names())


def test_a_topic_that_is_missing_is_named(letters: Letters) -> None:
    elsewhere = {**letters.at.environment, "SEGSTREAM_CONFIG": os.devnull}
    done = Deployment(elsewhere, letters.at.family).command("redrive", "--dry-run")
    assert done.returncode == 1
    assert "topic customer-events-dlq is missing: `segstream topics create`" in done.stderr
