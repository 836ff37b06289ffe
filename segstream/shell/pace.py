"""At most so many records a second."""

import time
from collections.abc import Callable

SLICE = 0.1
"""Longest wait before it is looked whether to stop."""


class Pace:
    """Lets numbers of records through, so that there are at most `rate` a second."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._due = time.monotonic()

    def wait(self, number: int, stop: Callable[[], bool]) -> None:
        """Until `number` more may be sent; time that was not used is lost."""
        while (left := self._due - time.monotonic()) > 0 and not stop():
            time.sleep(min(left, SLICE))
        self._due = max(self._due, time.monotonic()) + number / self.rate
