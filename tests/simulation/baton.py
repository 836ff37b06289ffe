"""Stops a call in the middle and lets the world go on without it, on one thread at a time.

Whoever pauses keeps its stack: the world's loop goes on in a new thread, and ends there when it
resumes somebody, whose own loop then takes over. So any number of calls may be paused and resumed
in any order, nothing ever runs at the same time, and a schedule stays a function of its plan.
"""

import threading
from collections.abc import Callable


class Baton:
    """`loop` runs until it returns; it must return right after `resume`, or when `over`."""

    def __init__(self, loop: Callable[[], None]) -> None:
        self._loop = loop
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._paused: set[Pause] = set()
        self._error: BaseException | None = None
        self.over = False

    def run(self) -> None:
        """The whole, to its end; raises what was raised on the way, wherever that was."""
        self._guarded()
        self._done.wait()
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def pause(self, pause: "Pause") -> None:
        """Called in the middle of something: returns when somebody has resumed it."""
        self._paused.add(pause)
        thread = threading.Thread(target=self._guarded, daemon=True)
        self._threads.append(thread)
        thread.start()
        pause.wait()

    def resume(self, pause: "Pause") -> None:
        self._paused.discard(pause)
        pause.go()

    def end(self) -> None:
        """Nobody goes on; what is paused finds `over` and leaves."""
        self.over = True
        for pause in list(self._paused):
            self.resume(pause)
        self._done.set()

    def _guarded(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self._error = self._error or error
            self.end()


class Pause:
    """A stop of somebody; `killed`: it will not go on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.killed = False

    def wait(self) -> None:
        self._event.wait()

    def go(self) -> None:
        self._event.set()
