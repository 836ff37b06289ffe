"""Child processes that never outlive us, and whose last words reach the user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from segstream.shell.local.jars import LocalUnavailable, Progress

START_SECONDS = 60
STOP_SECONDS = 5
POLL_SECONDS = 0.02
LAST_LINES = 15
TETHER = Path(__file__).with_name("tether.py")
# They would change the memory and the class path of every Java program in this shell.
JVM_VARIABLES = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH"}


@dataclass
class Family:
    """All children of one `local_servers`, and what they share."""

    directory: Path
    lock: int  # descriptor; children inherit it, so the directory is taken while any of them lives
    # Linux ties a child's life to the thread that started it. So one thread starts them all, and
    # lives until they are stopped; being one, it also keeps a Ctrl-C from falling between the
    # birth of a child and our knowing of it.
    thread: ThreadPoolExecutor
    tell: Progress
    born: list[Server] = field(default_factory=list)

    def stop(self) -> None:
        """Ask all to stop; kill those that have not after STOP_SECONDS."""
        self.thread.submit(self._stop).result()

    def _stop(self) -> None:
        for child in self.born:
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self.born:
            child.wait(max(0.0, deadline - time.monotonic()))
            child.kill()


class Server:
    """One child process, which can be killed and started again."""

    def __init__(
        self,
        name: str,
        family: Family,
        cwd: Path,
        command: Sequence[str],
        ready: Callable[[int], bool] = lambda _: False,
        environment: Mapping[str, str] | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        """`environment` is added to ours, less what begins with one of `without`."""
        self.name = name
        self.log = family.directory / f"{name}.log"
        self._family = family
        self._cwd = cwd
        self._command = list(command)
        self._ready = ready  # given the pid: does this very process, and no other, answer?
        self._environment = environment or {}
        self._without = without
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """Of the running process; None when there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start it, unless it runs, and wait until it serves."""
        if self.pid is None:
            self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it without waiting."""
        self._family.thread.submit(self._spawn).result()

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 (no shell)
                [sys.executable, "-IS", str(TETHER), str(os.getpid()), *self._command],
                cwd=self._cwd,
                env=self._whole_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone, and we stop them
                pass_fds=[self._family.lock],
            )
        if self not in self._family.born:
            self._family.born.append(self)

    def _whole_environment(self) -> dict[str, str]:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in JVM_VARIABLES and not name.startswith(self._without)
        }
        return {**inherited, **self._environment}

    def wait_ready(self) -> None:
        """Return once it serves; LocalUnavailable, with its last words, when it does not."""
        deadline = time.monotonic() + START_SECONDS
        while (pid := self.pid) is not None:
            if self._ready(pid):
                return
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready after {START_SECONDS} s")
            time.sleep(POLL_SECONDS)
        raise self._failure("ended while starting")

    def wait_success(self) -> None:
        """Return once it has ended well."""
        while self.pid is not None:
            time.sleep(POLL_SECONDS)
        if self._process is None or self._process.returncode != 0:
            raise self._failure("failed")

    def _failure(self, what: str) -> LocalUnavailable:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        said = [line[:300] for line in lines if not line.startswith("\tat ")]  # Java's stack frames
        words = "\n  ".join(["", *said[-LAST_LINES:]])
        return LocalUnavailable(f"{self.name} {what}. The end of {self.log}:{words}")

    def terminate(self) -> None:
        """Ask it to end."""
        if self._process:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Return when it has ended or time is up."""
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, as by a power cut; the data stay."""
        if self._process and self.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
