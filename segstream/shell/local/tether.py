"""Become a command that does not outlive its parent: `python tether.py PARENT_PID COMMAND...`.

A program of its own, not a hook between fork and exec: those are unsafe in a parent with threads.
The command takes over this process, so its pid is the one that the parent knows.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
POLL_SECONDS = 0.2


def die_with_parent() -> bool:
    """Ask the kernel to kill this process when the *thread* that started it ends (Linux only)."""
    if sys.platform != "linux":
        return False
    answer = ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return bool(answer == 0)


def watch(parent: int) -> None:
    """Elsewhere: leave a watcher in our process group, to kill it once `parent` is gone."""
    server = os.getpid()
    if os.fork():
        return
    while os.getppid() == server:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            os.killpg(server, signal.SIGKILL)
        time.sleep(POLL_SECONDS)
    os._exit(0)


def main(parent: int, command: list[str]) -> None:
    if not die_with_parent():
        watch(parent)
    if os.getppid() != parent:  # it died before we could ask
        os._exit(1)
    os.execv(command[0], command)  # noqa: S606 (no shell)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
