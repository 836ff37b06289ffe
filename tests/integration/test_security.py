"""Segmenter and trainer as users with the rights of the table, on servers that let nobody else in.

They play a stream with all that may come, under TLS, with passwords from files. Then each right
is taken away, and each certificate and password is a wrong one once; and whatever was written
along the way is searched for secrets and for customers.
"""

import gc
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from consumers import segmenter, settings, trainer
from consumers.settings import Settings
from segstream.core.batch import Checkpoint, Position
from segstream.core.output import ms_text
from segstream.core.step import Outcome
from segstream.ports import Announced, Refused, Unavailable, Write
from segstream.shell.access import Right, enter, rights_of
from segstream.shell.contract import rights, topics
from segstream.shell.kafka import KafkaSink
from segstream.shell.local.plan import HOST
from segstream.shell.redis import RedisStore
from segstream.shell.redis_client import connect
from segstream.shell.transaction import Transactions, produce
from tests.faults.traffic import CONFIG, traffic
from tests.integration.deployment import HOME, Deployment, deployment, log_of, offspring, wait
from tests.integration.secured import Secured, redis_with_tls, secured
from tests.integration.test_processes import metrics_of
from tests.integration.verdict import Verdict
from tests.servers import ABSENT
from tests.test_hostile import Bomb

NAME = "secured"
SEED = 11
CANARY = "c4n4ry"
CUSTOMER = re.compile(r"customer-\d|visitor-\d|sku-\d")
USERS = {
    "segmenter": "segmenter", "trainer": "trainer", "ops": "topics", "looker": "look",
    "auditor": "audit", "redriver": "redrive", "restorer": "restore",
    "namer": "rename", "replayer": "replay",
}  # fmt: skip
"""User → the process whose rights it has."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    if ABSENT and os.environ.get("CI") != "true":
        pytest.skip(f"segstream[local] lacks {ABSENT}")
    with secured(tmp_path_factory.mktemp("secured")) as made:
        for user, process in USERS.items():
            made.join(user, rights_of(process, f"{NAME}.", NAME), process, NAME)
        yield made


@pytest.fixture(scope="module")
def at(place: Secured) -> Iterator[Deployment]:
    """The administrator's view; what runs in it is started as one of the users."""
    with deployment(place.servers, place.directory, NAME, CONFIG) as made:
        yield made


def run(at: Deployment, environment: Mapping[str, str], *arguments: str) -> str:
    """`segstream …` to its end; all it has said, which is kept for the search."""
    done = subprocess.run(
        [sys.executable, "-m", "consumers", *arguments],
        env={**os.environ, **at.environment, **environment, "COLUMNS": "200"},
        cwd=HOME, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    (at.family.directory / f"said-{arguments[0]}-{time.monotonic_ns()}.log").write_text(said)
    return said


@pytest.fixture(scope="module")
def played(at: Deployment, place: Secured) -> Deployment:
    """Topics created, a stream played to its end, by users with the rights of the table alone."""
    print(f"seed {SEED}")
    assert "created the position" in run(at, place.environment("ops"), "topics", "create")
    assert "all topics are as they should be" in run(
        at, place.environment("ops"), "topics", "check"
    )
    debug = {
        "SEGSTREAM_KAFKA_DEBUG": "security,broker,conf,cgrp,eos",
        "SEGSTREAM_KAFKA_LOG_LEVEL": "7",
    }
    for process in ("segmenter", "trainer"):
        at.start(process, process, **place.environment(process), **debug)
    at.works("segmenter")
    at.works("trainer", process="trainer")
    beats = traffic(SEED, len(at.partitions), strays=False)
    for beat in islice(beats, 60):
        for sent in beat:
            at.send(sent.partition, sent.value, sent.key, sent.headers)
    wait(lambda: at.end("segment-models") > 0, "a version of the model", 60)
    for beat in islice(beats, 40):
        for sent in beat:
            at.send(sent.partition, sent.value, sent.key, sent.headers)
    arguments = offspring("SEGSTREAM_NAMESPACE", NAME)
    assert arguments or sys.platform != "linux"
    (at.family.directory / "arguments.log").write_text("\n".join([*arguments, ""]))
    for process, server in at.running.items():
        (at.family.directory / f"{process}.metrics.log").write_text(metrics_of(server))
    assert at.stop("trainer")[0] == 0
    wait(at.caught_up, "all is computed", 60)
    assert at.stop("segmenter")[0] == 0
    return at


# -- with the rights of the table --------------------------------------------------------------


def test_the_table_is_enough(played: Deployment) -> None:
    """Everything that the processes do has happened, and is as the oracle says."""
    verdict = Verdict(played, tomllib.loads(CONFIG))
    assert verdict.differences() == []
    counts = {n for p in verdict.expected for n, c in p.checkpoint["counts"].items() if c}
    assert counts >= {"valid", "duplicates", "late", "dead_letters", "control"}
    assert verdict.models
    written = {name for name in topics() if any(played.end(name, p) for p in partitions(name))}
    assert written == set(topics())


def partitions(topic: str) -> range:
    return range(1 if topic in ("feature-samples", "segment-models") else 4)


def test_the_clock_may_be_written(played: Deployment, place: Secured) -> None:
    """By a producer without transactions: it needs no right on the cluster."""
    own = load(played, place.environment("segmenter"))
    before = played.end("customer-events", 0)
    sink = KafkaSink(own.kafka, f"{NAME}.segmenter.clock", {"events": own.topic("customer-events")})
    sink.append_clock(0, played.checkpoint(0).clock)
    sink.close()
    assert played.end("customer-events", 0) == before + 1


COMMANDS = {
    "inspect CUSTOMER": ("looker", "vector"),
    "segments": ("looker", "model"),
    "segments --explain": ("looker", "of the panel"),
    "segments rename 1 Friends": ("namer", "the wish is written"),  # the trainer is stopped
    "events CUSTOMER": ("looker", "events of customer-"),
    "audit --customers 50": ("auditor", "everything is as the log says"),
    "redrive --yes --reason json --limit 1": ("redriver", "1 sent"),
    "restore": ("restorer", "segmenters can be started"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_needs_what_the_table_says(
    played: Deployment, place: Secured, command: str
) -> None:
    user, words = COMMANDS[command]
    key = next(iter(played.redis.scan_iter(f"{NAME}:{{0}}:c:customer-*")))
    customer = key.decode().rpartition(":")[2]
    said = run(played, place.environment(user), *command.replace("CUSTOMER", customer).split())
    assert words in said, said


def test_a_replay_as_lived_needs_what_the_table_says(
    played: Deployment, place: Secured, tmp_path: Path
) -> None:
    """It waits for both processes, each as its own user."""
    now = max(played.checkpoint(p).clock for p in played.partitions)
    calls = [
        {"type": "track", "event": "Product Viewed", "userId": "customer-1", "timestamp": day}
        for day in (ms_text(now), ms_text(now + 86_400_000))
    ]
    file = tmp_path / "calls.jsonl"
    file.write_text("".join(json.dumps(call) + "\n" for call in calls))
    for process in ("segmenter", "trainer"):
        played.start(process, process, **place.environment(process))
    said = run(played, place.environment("replayer"), "replay", str(file), "--as-lived")
    assert "2 sent, 0 were there already" in said
    for process in ("segmenter", "trainer"):
        assert played.stop(process)[0] == 0


# -- without one of them -----------------------------------------------------------------------

IN_PROCESS = {"segmenter": segmenter.run, "trainer": trainer.run}


def load(at: Deployment, environment: Mapping[str, str]) -> Settings:
    return settings.load({**at.environment, "SEGSTREAM_METRICS_PORT": "0", **environment})


def refusal(process: str, own: Settings) -> str:
    """What a start says that is refused; empty if it is not. Leaves no client behind."""
    before = gc.get_threshold()
    try:
        IN_PROCESS[process](own, lambda: True)
    except Refused as refused:
        return str(refused)
    finally:
        gc.unfreeze()  # the segmenter has no time for collections; its clients have cycles
        gc.set_threshold(*before)
        gc.collect()
    return ""


def missing() -> list[Any]:
    return [
        pytest.param(process, right, id=f"{process}: {right}")
        for process in IN_PROCESS
        for right in rights_of(process, f"{NAME}.", NAME)
    ]


@pytest.mark.parametrize(("process", "right"), missing())
def test_without_any_one_right_a_process_refuses_and_names_it(
    played: Deployment, place: Secured, process: str, right: Right
) -> None:
    own = load(played, place.environment(process))
    wait(lambda: not refusal(process, own), "with all rights it starts")
    place.forbid(process, right)
    try:
        said = wait(lambda: refusal(process, own), f"without {right} it is refused")
    finally:
        place.allow(process, right)
    if right.resource == "transactional-id":
        assert f"transactional-id {right.name}" in said
        assert f"Grant {right.operation}" in said
    else:
        assert f"does not allow this user: {right}. " in said
    assert "segstream rights" in said


def test_a_refused_record_names_its_topic(played: Deployment, place: Secured) -> None:
    """Whether the broker refuses it, or the client does not even take it: by then it knows."""
    right = Right("Write", "topic", played.topic("customer-events-dlq"))
    own = load(played, place.environment("segmenter"))
    transactions = Transactions(own.kafka, f"{own.group('segmenter')}.refused")

    def fill(producer: Producer) -> None:
        producer.list_topics(right.name, timeout=10)
        produce(producer, right.name, b"{}", None, 0)

    transactions.commit(fill)
    place.forbid("segmenter", right)
    try:
        for _ in range(3):
            with pytest.raises(Refused, match=f"not committed: topic {re.escape(right.name)}: "):
                transactions.commit(fill)
    finally:
        place.allow("segmenter", right)


def test_a_right_that_is_lost_at_work_ends_it_too(played: Deployment, place: Secured) -> None:
    """Nothing of the batch is lost: it was not committed, so it is computed again."""
    right = Right("Write", "topic", played.topic("customer-events-dlq"))
    server = played.start("segmenter", "segmenter", **place.environment("segmenter"))
    played.works("segmenter")
    place.forbid("segmenter", right)
    try:
        wait(lambda: played.send(0, b"not JSON") and server.pid is None, "it ends", 40)
    finally:
        place.allow("segmenter", right)
    said = " ".join(log_of(server).split())
    assert f"does not allow this user: not committed: topic {right.name}" in said, said
    assert "Traceback" not in said
    played.start("segmenter", "segmenter", **place.environment("segmenter"))
    wait(played.caught_up, "all is computed", 40)
    assert played.stop("segmenter")[0] == 0
    ends = played.read("customer-events-dlq", 0)[-1].headers()
    assert int(dict(ends)["segstream.errors.offset"]) == played.end("customer-events", 0) - 1


# -- Redis -------------------------------------------------------------------------------------


PARTITIONS = itertools.count()


def exercise(store: RedisStore) -> None:
    """Everything that a worker asks of its store."""
    p = next(PARTITIONS)
    store.check()
    store.announce(Announced(4, "murmur2", "layout", "topic"))
    store.announced()
    store.checkpoint(99)
    store.due(p, [1, 2])
    store.load({p: ["somebody"]})[p]
    there = None
    for offset, born in ((1, True), (2, False)):
        checkpoint = Checkpoint(offset, 0, "layout")
        writes = {"somebody": b"state"} if born else {}
        deletes = [] if born else ["somebody"]
        births, deaths = ([(1, "somebody")], []) if born else ([], [(1, "somebody")])
        outcome = Outcome(checkpoint, writes, deletes, births, deaths, [], {})
        assert store.write([Write(p, there, outcome)])
        assert store.write([Write(p, there, outcome)]), "a repetition is known as one"
        there = checkpoint.position
    third = outcome._replace(checkpoint=Checkpoint(3, 0, ""))
    assert not store.write([Write(p, Position(77, 0), third)])


@pytest.fixture(scope="module")
def guest(place: Secured) -> str:
    """A user of a namespace of its own, for tests that write nonsense."""
    place.join("guest", [], "segmenter", "guest")
    return "guest"


def test_the_commands_of_the_table_are_enough_for_redis(place: Secured, guest: str) -> None:
    with connect(url(place, guest)) as client:
        exercise(RedisStore(client, "guest"))


@pytest.mark.parametrize("command", rights()["segmenter"].redis)
def test_without_any_one_command_redis_is_refused(place: Secured, guest: str, command: str) -> None:
    place.redis_rule(guest, f"-{command}")
    try:
        with (
            connect(url(place, guest)) as client,
            pytest.raises(Refused, match=f"(?i)does not allow it: .*{command}.*segstream rights"),
        ):
            exercise(RedisStore(client, "guest"))
    finally:
        place.redis_rule(guest, f"+{command}")


def test_keys_of_another_namespace_are_out_of_reach(place: Secured, guest: str) -> None:
    with (
        connect(url(place, guest)) as client,
        pytest.raises(Refused, match="Redis does not allow it: No permissions to access a key"),
    ):
        RedisStore(client, NAME).checkpoint(0)


def url(place: Secured, user: str, redis: str = "server", **more: str) -> str:
    return settings.load({**place.environment(user, redis=redis), **more}).redis.url


# -- who comes in ------------------------------------------------------------------------------


def wrong(place: Secured) -> dict[str, tuple[dict[str, str], str]]:
    """What is wrong → environment, what is said."""
    user, stranger = "segmenter", str(place.certificates.stranger)
    (place.directory / "wrong.password").write_text(f"{CANARY}-but-wrong")
    other = str(place.directory / "wrong.password")
    return {
        "password of Kafka": (
            {**place.environment(user), "SEGSTREAM_KAFKA_SASL_PASSWORD_FILE": other},
            "Kafka does not let this process in: .*invalid credentials.*Check the user, password",
        ),
        "mechanism": (
            {**place.environment(user), "SEGSTREAM_KAFKA_SASL_MECHANISM": "PLAIN"},
            "Kafka does not let this process in: .*Unsupported SASL mechanism.*SCRAM-SHA-512",
        ),
        "authority of Kafka": (
            {**place.environment(user), "SEGSTREAM_KAFKA_SSL_CA_LOCATION": stranger},
            r"Kafka does not let this process in: .*\((unable to get local issuer|self.signed)",
        ),
        "name of Kafka": (
            place.environment(user, "ELSEWHERE"),
            r"Kafka does not let .*\(IP address mismatch, certificate is not valid for '127.0.0.1'",
        ),
        "expired, Kafka": (
            place.environment(user, "EXPIRED"),
            r"Kafka does not let this process in: .*\(certificate has expired\)",
        ),
        "no certificate for Kafka": (
            place.environment(user, "MTLS"),
            "Kafka does not let this process in: .*certificate required.*certificates in SEGSTREAM",
        ),
        "password of Redis": (
            {**place.environment(user), "SEGSTREAM_REDIS_PASSWORD_FILE": other},
            "Redis does not let this process in: invalid username-password pair.*_REDIS_PASSWORD",
        ),
        "authority of Redis": (
            {**place.environment(user), "SEGSTREAM_REDIS_CA": stranger},
            "Redis cannot be trusted, .*(unable to get local issuer|self.signed).*_REDIS_CA",
        ),
        "name of Redis": (
            place.environment(user, redis="elsewhere"),
            "Redis cannot be trusted, .*certificate is not valid for '127.0.0.1'.*_REDIS_URL",
        ),
        "expired, Redis": (
            place.environment(user, redis="expired"),
            "Redis cannot be trusted, .*certificate has expired",
        ),
        "no certificate for Redis": (
            place.environment(user, redis="mutual"),
            "does not trust this process: .*certificate required.*_CERTIFICATE",
        ),
    }


WRONG = (
    "password of Kafka", "mechanism", "authority of Kafka", "name of Kafka", "expired, Kafka",
    "no certificate for Kafka", "password of Redis", "authority of Redis",
    "name of Redis", "expired, Redis", "no certificate for Redis",
)  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_who_may_not_come_in_is_told_why(played: Deployment, place: Secured, what: str) -> None:
    """Without a secret, by a process that ends."""
    environment, words = wrong(place)[what]
    own = load(played, environment)
    said = refusal("segmenter", own)
    assert re.search(words, said, re.DOTALL), said
    assert CANARY not in said


def test_without_tls_kafka_cannot_be_reached(played: Deployment, place: Secured) -> None:
    """A broker only hangs up then; so the message names what may be wrong."""
    plain = {"SEGSTREAM_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}
    own = load(played, {**place.environment("segmenter"), **plain})
    with pytest.raises(Unavailable, match=r"(?s)cannot be reached: .*_PROTOCOL"):
        enter(own.kafka, 2)


def test_a_certificate_is_a_user_too(played: Deployment, place: Secured) -> None:
    """Mutual TLS to both servers, without any password for Kafka."""
    own = place.certificates.issue("segmenter")
    kafka, redis = "SEGSTREAM_KAFKA_SSL", "SEGSTREAM_REDIS"
    variables = {
        **place.environment("segmenter", "MTLS", "mutual"),
        f"{kafka}_CERTIFICATE_LOCATION": str(own.certificate),
        f"{kafka}_KEY_LOCATION": str(own.key),
        f"{redis}_CERTIFICATE": str(own.certificate),
        f"{redis}_KEY": str(own.key),
    }
    unused = [name for name in variables if "_SASL_" in name]
    assert (
        refusal("segmenter", load(played, {k: variables[k] for k in variables if k not in unused}))
        == ""
    )


def test_a_redis_that_speaks_tls_itself(place: Secured) -> None:
    """The same as behind a terminator, where there is one; the package's Valkey is without TLS."""
    own, ca = place.certificates.issue("segmenter"), f"ssl_ca_certs={place.certificates.ca}"
    mine = f"ssl_certfile={own.certificate}&ssl_keyfile={own.key}"
    with redis_with_tls(place.directory, place.certificates) as port:
        if port is None:
            pytest.skip("no redis-server or valkey-server with TLS is on the PATH")
        start = f"rediss://{HOST}:{port}/0"
        RedisStore(connect(f"{start}?{ca}&{mine}"), NAME).check()
        for query, words in (
            (ca, "certificate"),  # it hangs up, with or without a word
            (f"ssl_ca_certs={place.certificates.stranger}&{mine}", "cannot be trusted"),
            (mine, "cannot be trusted"),
        ):
            with pytest.raises((Refused, Unavailable), match=words):
                RedisStore(connect(f"{start}?{query}"), NAME).check()


# -- what means harm ---------------------------------------------------------------------------


def test_bombs_in_redis_and_in_the_topics_do_not_go_off(
    played: Deployment, place: Secured, tmp_path: Path
) -> None:
    """A version that is none is skipped; a State that is none ends the process, by name of a hash.

    With the State put back, all goes on.
    """
    mark = tmp_path / "mark"
    bomb = pickle.dumps(Bomb(mark))
    topic, key = (
        played.topic("segment-models"),
        next(played.redis.scan_iter(f"{NAME}:{{0}}:c:customer-*")),
    )
    producer = Producer({**played.kafka, "log_level": 0})
    for name, value in (
        (b"7", bomb),
        (bomb, b"{}"),
        (b"8", b"[" * 100_000),
        (b"9", b"1" * 900_000),
    ):
        producer.produce(topic, value, name)
    assert producer.flush(10) == 0
    saved: Any = played.redis.get(key)
    played.redis.set(key, bomb)
    customer = key.decode().rpartition(":c:")[2]
    call = {
        "type": "page",
        "userId": customer,
        "messageId": "harm",
        "timestamp": "2020-03-20T00:00:00Z",
    }
    played.send(0, bomb, bomb, [("ce_type", bomb)])
    played.send(0, json.dumps(call).encode())
    server = played.start("segmenter", "segmenter", **place.environment("segmenter"))
    wait(lambda: server.pid is None, "it ends", 40)
    said = " ".join(log_of(server).split())
    assert "partition 0 cannot be computed: the State of the customer with hash" in said
    assert "Traceback" not in said
    played.redis.set(key, saved)
    played.start("segmenter", "segmenter", **place.environment("segmenter"))
    wait(played.caught_up, "all is computed", 40)
    assert played.stop("segmenter")[0] == 0
    assert dict(played.read("customer-events-dlq", 0)[-1].headers())["segstream.errors.reason"]
    assert not mark.exists()
    pickle.loads(bomb)
    assert mark.exists(), "it was a live one"


# -- what may not be seen ----------------------------------------------------------------------


def test_nothing_that_was_written_has_a_secret_or_a_customer(
    played: Deployment, place: Secured
) -> None:
    """Logs under debugging, metrics, what commands say, failing ones too, and their arguments."""
    failing = [wrong(place)[what][0] for what in ("password of Kafka", "password of Redis")]
    debug = {"SEGSTREAM_KAFKA_DEBUG": "all", "SEGSTREAM_KAFKA_LOG_LEVEL": "7"}
    for environment in failing:
        for words in (["run", "segmenter"], ["segments"]):
            run(played, {**environment, **debug}, *words)
    shown = run(played, place.environment("segmenter"), "config", "show")
    assert "********" in shown
    run(
        played, {"SEGSTREAM_KAFKA_SASL_PASSWORD": CANARY, "SEGSTREAM_NO": CANARY}, "config", "check"
    )
    logs = sorted(played.family.directory.glob("*.log"))
    kinds = {"segmenter.log", "trainer.log", "segmenter.metrics.log", "arguments.log"}
    assert kinds <= {log.name for log in logs if log.stat().st_size}
    for log in logs:
        text = log.read_text()
        assert CANARY not in text, log
        of_people = any(f"said-{kind}" in log.name for kind in ("inspect", "events", "redrive"))
        assert of_people or not CUSTOMER.search(text), (log, CUSTOMER.search(text))
    letters = [m for p in played.partitions for m in played.read("customer-events-dlq", p)]
    assert letters
    assert CANARY not in repr([(m.key(), m.value(), m.headers()) for m in letters])
