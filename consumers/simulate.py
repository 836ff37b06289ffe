"""`segstream simulate`: a made-up shop, into a file or into Kafka."""

import csv
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from segstream.core.output import ms_text
from segstream.shell.files import FileError
from segstream.shell.pace import Pace
from segstream.shell.replay import Call, Target, replay
from segstream.shop import Day, Shop

Stop = Callable[[], bool]

STDOUT = Path("-")
_FORMS = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_MOST = 10_000  # calls written at once, and then looked whether to stop


class Part(StrEnum):
    """What can be left out of a simulation."""

    new_persona = "new-persona"
    inflation = "inflation"
    campaign = "campaign"
    switches = "switches"
    seasons = "seasons"


_OFF: dict[Part, dict[str, Any]] = {
    Part.new_persona: {"new_persona": None},
    Part.inflation: {"inflation": None},
    Part.campaign: {"campaign": None},
    Part.switches: {"hazard": 0.0},
    Part.seasons: {"seasons": False},
}


def shop_of(customers: int, days: int, seed: int, start: str, without: Iterable[Part] = ()) -> Shop:
    """The shop that the options describe. ValueError: there is no such shop."""
    shop = Shop(seed, customers, days, date.fromisoformat(start))
    for part in without:
        shop = replace(shop, **_OFF[part])
    return shop


def is_writable(path: Path) -> bool:
    """Whether the name says what is to be written."""
    return path == STDOUT or path.name.lower().endswith(_FORMS)


def write_truth(shop: Shop, path: Path) -> None:
    """All stays as CSV: customer, since, persona; in the order of time. Raises FileError."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["customer", "since", "persona"])
            rows.writerows((s.customer, ms_text(s.since_ms), s.persona) for s in shop.stays())
    except OSError as error:
        raise FileError(f"{path}: {error}") from error


class Done(NamedTuple):
    """What has been done, for people, and whether it was stopped."""

    text: str
    stopped: bool


class Run:
    """One simulation, at most `rate` calls a second; `progress` gets the days that are done."""

    def __init__(
        self, shop: Shop, rate: int | None, progress: Callable[[int], None], stop: Stop
    ) -> None:
        self._shop, self._rate, self._progress, self._stop = shop, rate, progress, stop

    def into(self, where: Path | Target, *, as_lived: bool = False) -> Done:
        """Into a file, or into Kafka. Raises FileError or ReplayError."""
        return self._write(where) if isinstance(where, Path) else self._send(where, as_lived)

    def _write(self, path: Path) -> Done:
        """Into a file or stdout. Stopped, it ends after a whole line."""
        began, written = time.monotonic(), 0
        with _opened(path) as file:
            for lines in self._paced():
                file.write("\n".join([*lines, ""]).encode())
                if self._rate is not None:
                    file.flush()
                written += len(lines)
        stopped, seconds = self._stop(), time.monotonic() - began
        text = f"{written:,} events written ({seconds:.1f} s){', stopped' * stopped}"
        return Done(text, stopped)

    def _send(self, target: Target, as_lived: bool) -> Done:
        """Into `customer-events`; what is there already is skipped."""
        found = replay(
            self._calls(),
            self._shop.digest,
            target,
            as_lived=as_lived,
            rate=self._rate,
            stop=self._stop,
        )
        text = (
            f"{found.sent:,} events sent, {found.skipped:,} were there already "
            f"({found.seconds:.1f} s){', stopped: run it again to go on' * found.stopped}"
        )
        return Done(text, found.stopped)

    def _days(self) -> Iterator[Day]:
        for number, day in enumerate(self._shop.by_day()):
            self._progress(number)
            yield day
        self._progress(self._shop.days)

    def _calls(self) -> Iterator[Call]:
        number = 0
        for day in self._days():
            for at, who, line in zip(day.at.tolist(), day.who, day.lines, strict=True):
                number += 1
                yield number, at, who, line.encode()

    def _paced(self) -> Iterator[list[str]]:
        """Some lines at a time, when they may be written, until it is to stop."""
        rate, pace = self._rate, None if self._rate is None else Pace(self._rate)
        most = _MOST if rate is None else min(max(rate // 10, 1), _MOST)
        for day in self._days():
            for begin in range(0, len(day.lines), most):
                lines = day.lines[begin : begin + most]
                if pace is not None:
                    pace.wait(len(lines), self._stop)
                if self._stop():
                    return
                yield lines


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to. Whoever reads stdout may go, as `head` does; that is no error."""
    try:
        if path == STDOUT:
            yield sys.stdout.buffer
            sys.stdout.flush()
        elif path.suffix == ".gz":
            # Without name and time: the same shop makes the same bytes.
            with path.open("wb") as plain, gzip.GzipFile("", "wb", 1, plain, 0) as file:
                yield cast(IO[bytes], file)
        else:
            with path.open("wb") as file:
                yield file
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise FileError(f"{path}: {error}") from error
