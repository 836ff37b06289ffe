"""`segstream redrive`: dead letters go back into the log of events."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, get_args

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from consumers.settings import Settings
from segstream.core.expression import parse_duration
from segstream.core.output import ms_text
from segstream.core.redrive import Filter
from segstream.core.spec import Fault, Invalid, parse_time
from segstream.shell import redrive as shell
from segstream.shell.redrive import Letters, Sender, Survey

Stop = Callable[[], bool]

SHOWN = 20
"""Originals that are named one by one; --json names all."""
WIDEST = 80


class Wanted(NamedTuple):
    """What is asked for. `limit` None: all."""

    filter: Filter
    limit: int | None
    again: bool
    dry: bool


class Redrive:
    """One run: look, then send. It fences the one before, unless it only looks."""

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        name, letters = settings.group("redrive"), settings.topic("customer-events-dlq")
        self._wanted = wanted
        self._topic = settings.topic("customer-events")
        # First of all: what an earlier one had left open is then ended, and can be read.
        self._sender = None if wanted.dry else Sender(settings.kafka, name, self._topic, letters)
        self._letters = Letters(settings.kafka, letters, name)
        self.survey = Survey()
        self.sent = 0
        self.seconds = 0.0

    def look(self, stop: Stop) -> None:
        """Read all dead letters, and choose."""
        wanted = self._wanted
        self.survey = self._letters.survey(
            wanted.filter, stop, again=wanted.again, limit=wanted.limit
        )

    def send(self, rate: int, console: Console, stop: Stop) -> None:
        """Send what was chosen; `sent` says how many, also after an exception."""
        if self._sender is None:
            return
        began, places = time.monotonic(), self.survey.to_send
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("sending", total=len(places))
            try:
                for number in shell.send(self._letters, self._sender, places, rate=rate, stop=stop):
                    self.sent += number
                    shown.update(task, completed=self.sent)
            finally:
                self.seconds = time.monotonic() - began

    def question(self, rate: int) -> str:
        number = len(self.survey.to_send)
        return f"Send {number:,} dead letters to {self._topic}, at most {rate:,} a second?"

    def table(self) -> Table:
        """A row for each reason."""
        found = Table(title="dead letters", title_justify="left")
        for name in ("reason", "letters", "oldest", "newest", "to send", "sent before",
                     "failed again", "example"):  # fmt: skip
            found.add_column(name, justify="right" if name in NUMBERS else "left")
        for reason, tally in sorted(self.survey.tallies.items()):
            found.add_row(
                escape(reason),
                f"{tally.letters:,}",
                ms_text(tally.oldest),
                ms_text(tally.newest),
                f"{tally.to_send:,}",
                f"{tally.sent_before:,}",
                f"{tally.failed_again:,}",
                escape(_short(tally.example)),
            )
        return found

    def notes(self) -> list[str]:
        """What is never sent, and where it is."""
        cut, unknown = self.survey.cut, self.survey.unknown
        lines = [f"{unknown:,} records there are no dead letters of segstream"] if unknown else []
        if cut:
            lines.append(f"{len(cut):,} are too large to be sent again; the originals:")
            lines += [
                f"  {o.topic}, partition {o.partition}, offset {o.offset}" for o in cut[:SHOWN]
            ]
            if len(cut) > SHOWN:
                lines.append(f"  … and {len(cut) - SHOWN:,} more; --json names them")
        return lines

    def summary(self, *, stopped: bool) -> str:
        before = sum(tally.sent_before for tally in self.survey.tallies.values())
        return f"{self.sent:,} sent, {before:,} had been sent before ({self.seconds:.1f} s)" + (
            ", stopped: run it again to go on" if stopped else ""
        )

    def figures(self, *, stopped: bool) -> dict[str, Any]:
        """The JSON of `segstream redrive --json`."""
        return {
            "dry_run": self._wanted.dry,
            "reasons": {
                reason: {
                    **asdict(tally),
                    "oldest": ms_text(tally.oldest),
                    "newest": ms_text(tally.newest),
                }
                for reason, tally in sorted(self.survey.tallies.items())
            },
            "to_send": len(self.survey.to_send),
            "sent": self.sent,
            "stopped": stopped,
            "seconds": round(self.seconds, 3),
            "too_large": [origin._asdict() for origin in self.survey.cut],
            "unknown": self.survey.unknown,
        }


NUMBERS = ("letters", "to send", "sent before", "failed again")


def _short(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= WIDEST else f"{plain[: WIDEST - 1]}…"


def show_json(figures: dict[str, Any]) -> None:
    print(json.dumps(figures))  # noqa: T201


def filter_of(
    reasons: Sequence[str],
    since: str | None,
    until: str | None,
    partitions: Sequence[int],
    number_of_partitions: int,
) -> Filter:
    """What the options say; ValueError for people."""
    known = get_args(Fault)
    for reason in reasons:
        if reason not in known:
            raise ValueError(f"there is no reason {reason!r}; there are: {', '.join(known)}")
    for partition in partitions:
        if not 0 <= partition < number_of_partitions:
            last = number_of_partitions - 1
            raise ValueError(f"there is no partition {partition}; there are 0 to {last}")
    now = time.time_ns() // 1_000_000
    return Filter(frozenset(reasons), moment(since, now), moment(until, now), frozenset(partitions))


def moment(text: str | None, now: int) -> int | None:
    """A time (RFC 3339), or a duration before now: `2h`; in ms. ValueError for people."""
    if text is None:
        return None
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_time(text)
    except Invalid:
        raise ValueError(
            f"{text!r} is no time; write 2026-11-23T06:00:00Z, or how long ago: 2h"
        ) from None
