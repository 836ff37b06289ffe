"""Calls that may never come back: whatever they end in, what they hold is let go of at once.

A producer holds threads and megabytes that Python's collector does not see, so it would come late.
"""

import gc
import threading
import weakref
from collections.abc import Callable

import pytest

from segstream.shell.transaction import within


class Held:
    """In the place of a producer."""

    def __init__(self, end: Callable[[], object]) -> None:
        self.end = end

    def call(self) -> None:
        self.end()


@pytest.fixture(autouse=True)
def _no_collector() -> object:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def fail() -> None:
    raise ValueError("refused")


def test_a_call_that_returns() -> None:
    held = Held(lambda: None)
    gone = weakref.ref(held)
    within(5, held.call)
    del held
    assert gone() is None


def test_an_error_is_raised_and_holds_nothing() -> None:
    held = Held(fail)
    gone = weakref.ref(held)
    with pytest.raises(ValueError, match="refused"):
        within(5, held.call)
    del held
    assert gone() is None


def test_a_call_that_fails_after_its_time_holds_nothing() -> None:
    late = threading.Event()

    def end() -> None:
        late.wait(10)
        fail()

    held = Held(end)
    gone = weakref.ref(held)
    with pytest.raises(TimeoutError):
        within(0.01, held.call)
    del held
    assert gone() is not None
    (thread,) = [t for t in threading.enumerate() if t.name == "transaction"]
    late.set()
    thread.join()
    assert gone() is None
