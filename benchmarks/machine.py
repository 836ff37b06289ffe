"""Readings of processes (from Linux' /proc) and facts about the machine."""

import os
import platform
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import confluent_kafka
from redis import Redis, RedisCluster

from segstream.core import compiled
from segstream.shell.local.jars import locked_jars

PROC = Path("/proc")
MINE = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
"""The cores that this process was given; `aside` leaves it some of them for a while."""
_PACKAGES = ("segstream", "confluent-kafka", "msgspec", "numpy", "redis", "hiredis", "xxhash")
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def cpu_seconds(pid: int, *, thread: bool = False) -> float:
    """User and system time of a process, all its threads; or of its main thread alone.

    In steps of 10 ms, as the kernel counts.
    """
    place = PROC / str(pid) / ("task/" + str(pid) if thread else "") / "stat"
    # The name in parentheses may hold anything; what follows the last one is fields 3 and on.
    fields = place.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(pid: int, *, peak: bool = False) -> float:
    """Memory that the process has (RSS); or the most that it has had."""
    field = "VmHWM" if peak else "VmRSS"
    found = re.search(rf"{field}:\s+(\d+) kB", (PROC / str(pid) / "status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def scrape(port: int) -> dict[str, float]:
    """The segmenter's metrics: `name` or `name{labels}` → value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        name + (f"{{{labels}}}" if labels else ""): float(value)
        for name, labels, value in _SAMPLE.findall(text)
    }


def cores(number: int = 1) -> tuple[set[int], set[int]] | None:
    """(the cores of so many segmenters, those of everything else); None where there is only one.

    Where there are not enough, the segmenters share the last one.
    """
    if len(MINE) < 2:
        return None
    own = MINE[-number:] if len(MINE) > number else MINE[-1:]
    return set(own), set(MINE) - set(own)


@contextmanager
def aside() -> Iterator[None]:
    """What is started meanwhile leaves the core of one segmenter free."""
    where = cores()
    if where is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, where[1])  # children inherit it
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def facts(redis: "Redis | RedisCluster | None" = None) -> dict[str, Any]:
    """What the figures depend on: date, machine, versions."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    versions["compiled core"] = "no" if compiled.functions is None else "yes"
    versions["librdkafka"] = confluent_kafka.libversion()[0]
    versions["kafka"] = next(j.version for j in locked_jars() if j.group == "org.apache.kafka")
    if redis is not None:
        server = redis.info("server")
        versions["valkey"] = server.get("valkey_version", server["redis_version"])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": {
            "cpu": _first("cpuinfo", r"model name\s*: (.*)") or platform.processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(int(_first("meminfo", r"MemTotal:\s+(\d+)") or 0) / 2**20, 1),
            "system": f"{platform.system()} {platform.release()}",
            "load": round(os.getloadavg()[0], 1),
        },
        "versions": versions,
    }


def _first(file: str, pattern: str) -> str:
    try:
        found = re.search(pattern, (PROC / file).read_text())
    except OSError:
        return ""
    return found[1] if found else ""
