"""A loop gives memory back in passing."""

import gc
import os
import sys
import weakref
from collections.abc import Iterator

import pytest

from segstream.shell.memory import tidying
from tests.faults.memory import resident


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_cycles_go_when_it_is_time() -> None:
    cycle = Cycle()
    gone = weakref.ref(cycle)
    del cycle
    assert not tidying(lambda: False, every=3600)()
    assert gone() is not None
    assert not tidying(lambda: False, every=0)()
    assert gone() is None


def test_it_is_asked_whether_to_stop() -> None:
    answers = iter([False, True])
    stop = tidying(lambda: next(answers), every=0)
    assert [stop(), stop()] == [False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_was_freed_goes_back() -> None:
    """Small pieces, every hundredth of which stays in use: the heap cannot shrink from its end."""
    pieces = [bytes(1_000) for _ in range(60_000)]  # beyond what Python's own allocator takes
    full = resident(os.getpid())
    kept = pieces[::100]
    pieces.clear()
    tidying(lambda: False, every=0)()
    assert resident(os.getpid()) < full - (30 << 20)
    assert len(kept) == 600
