"""Memory goes back now and then: a process that runs for months must not stay as large as it was
in its worst minute.

Two things are left behind otherwise. A failed call to a server leaves cycles (an exception and the
frames it passed), which hold whole batches, and the collector comes by only after so many new
objects, which at a quiet hour is never. And the C library keeps what was freed amid what is still
in use (glibc; others give it back by themselves, or have no `malloc_trim`).
"""

import ctypes
import gc
import time
from collections.abc import Callable

EVERY_SECONDS = 60.0


def tidying(stop: Callable[[], bool], every: float = EVERY_SECONDS) -> Callable[[], bool]:
    """`stop`, asked once per turn of a loop, which also tidies up when it is time to (ms)."""
    trim = _trim()
    last = time.monotonic()

    def asked() -> bool:
        nonlocal last
        if time.monotonic() - last >= every:
            gc.collect()
            trim(0)
            last = time.monotonic()
        return stop()

    return asked


def _trim() -> Callable[[int], object]:
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return lambda _: None
    return found
