"""When to stop: Ctrl-C, SIGTERM, and what if a process does not."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Stop = Callable[[], bool]

ONCE = 1.0
"""Signals within so many seconds are one: a terminal and a parent may both send theirs."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping() -> Iterator[Stop]:
    """A function that says whether Ctrl-C or SIGTERM has come."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping_within(seconds: float) -> Iterator[Stop]:
    """The same for a process that can end anywhere: it ends at once `seconds` after the first
    signal, and at a second one.

    Signals are also written to a pipe, which a thread reads: the main one may be waiting for a
    server, and runs no handler until that answers.
    """
    end, signals = os.pipe()
    os.set_blocking(signals, False)
    watch = threading.Thread(target=_watch, args=(end, seconds), name="stop", daemon=True)
    with stopping() as stop:
        before = signal.set_wakeup_fd(signals, warn_on_full_buffer=False)
        watch.start()
        try:
            yield stop
        finally:
            signal.set_wakeup_fd(before)
            os.close(signals)
            watch.join()
            os.close(end)


def _watch(end: int, seconds: float) -> None:
    """Until the pipe is closed: all went well."""
    if not os.read(end, 1):
        return
    asked = time.monotonic()
    while (left := asked + seconds - time.monotonic()) > 0:
        if not select.select([end], [], [], left)[0]:
            break
        number = os.read(end, 1)
        if not number:
            return
        if time.monotonic() - asked >= ONCE:
            name = signal.Signals(number[0]).name
            _end(f"asked again, by {name}", 128 + number[0])
    _end(f"a server has not answered within {seconds:g} s", 1)


def _end(why: str, code: int) -> None:
    # Not by the log: the thread that waits may hold its lock.
    text = f"ended at once: {why}. Nothing is lost: what was not committed is computed again\n"
    os.write(2, text.encode())
    os._exit(code)
