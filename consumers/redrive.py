"""`segstream redrive`: dead letters go back into the log of events."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from consumers.settings import Settings
from segstream.core.expression import parse_duration
from segstream.core.output import ms_text
from segstream.core.redrive import Filter, Survey, Tally
from segstream.core.spec import Fault, Invalid, parse_time
from segstream.ports import NotCommitted, Unavailable
from segstream.shell import redrive as shell
from segstream.shell.redrive import Letters, Sender
from segstream.shell.transaction import Fenced

Stop = Callable[[], bool]

SHOWN = 20
"""Originals that are named one by one; --json names all."""
NUMBERS = ("letters", "to send", "sent before", "failed again")


class Redrive:
    """One run: look, then send. One that `sends` fences the one before."""

    def __init__(self, settings: Settings, *, sends: bool) -> None:
        name, self.letters = settings.group("redrive"), settings.topic("customer-events-dlq")
        self.events = settings.topic("customer-events")
        # First of all: what an earlier one had left open is then ended, and can be read.
        self._sender = Sender(settings.kafka, name, self.events, self.letters) if sends else None
        self._letters = Letters(settings.kafka, self.letters, name)
        self._survey = Survey(Filter())
        self.sent = 0
        self.seconds = 0.0
        self.stopped = False

    def look(self, wanted: Filter, *, again: bool, limit: int | None, stop: Stop) -> None:
        """Read all dead letters, and choose."""
        self._survey = self._letters.survey(wanted, again=again, limit=limit, stop=stop)

    @property
    def number(self) -> int:
        """How many are to be sent."""
        return len(self._survey.to_send)

    def send(self, rate: int, console: Console, stop: Stop) -> None:
        """Send what was chosen, with a bar; Ctrl-C ends it between two transactions."""
        assert self._sender is not None  # noqa: S101 (nobody is asked in a dry run)
        began, places = time.monotonic(), self._survey.to_send
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("sending", total=self.number)
            try:
                for number in shell.send(self._letters, self._sender, places, rate=rate, stop=stop):
                    self.sent += number
                    shown.update(task, completed=self.sent)
            except NotCommitted as error:
                raise Unavailable(self._interrupted(error)) from error
        self.seconds = time.monotonic() - began
        self.stopped = stop() and self.sent < self.number

    def _interrupted(self, error: NotCommitted) -> str:
        why = (
            "another redrive of this namespace has started" if isinstance(error, Fenced) else error
        )
        return (
            f"{self.sent:,} of {self.number:,} were sent, then it ended: {why}. "
            "Run it again to go on; what was sent is not sent twice"
        )

    # -- for people -------------------------------------------------------------------

    def show(self, console: Console) -> None:
        """What there is, by reason, and what can never be sent."""
        survey = self._survey
        tallies = sorted(survey.tallies.items())
        if not tallies:
            console.print(f"{self.letters} holds no such dead letters", markup=False)
        else:
            console.print(f"dead letters in {self.letters}\n", style="bold", markup=False)
            console.print(_table(tallies), "", _examples(tallies), "")
        if survey.unknown:
            line = f"{survey.unknown:,} records were not written by segstream and are left alone"
            console.print(line)
        if survey.too_large:
            console.print("too large to be sent again; the originals:")
            for origin in survey.too_large[:SHOWN]:
                text = f"  {origin.topic}, partition {origin.partition}, offset {origin.offset}"
                console.print(text, markup=False)
            if len(survey.too_large) > SHOWN:
                console.print(f"  and {len(survey.too_large) - SHOWN:,} more: --json names them")

    def question(self, rate: int) -> str:
        what = "1 dead letter" if self.number == 1 else f"{self.number:,} dead letters"
        return f"Send {what} to {self.events}, at most {rate:,} a second?"

    def summary(self) -> str:
        """The last line."""
        if self._sender is None:
            return f"dry run: {self.number:,} would be sent"
        if self.sent:
            rest = f", stopped: {self.number - self.sent:,} are left, run it again to go on"
            return f"{self.sent:,} sent ({self.seconds:.1f} s)" + rest * self.stopped
        before = sum(tally.sent_before for tally in self._survey.tallies.values())
        hint = f"; {before:,} were sent before: --again sends them once more"
        return "nothing was sent" + hint * (before > 0 and not self.number)

    def figures(self) -> dict[str, Any]:
        """What `--json` prints."""
        survey = self._survey
        return {
            "reasons": {
                reason: {
                    **asdict(tally),
                    "oldest": ms_text(tally.oldest),
                    "newest": ms_text(tally.newest),
                }
                for reason, tally in sorted(survey.tallies.items())
            },
            "too_large": [origin._asdict() for origin in survey.too_large],
            "unknown": survey.unknown,
            "to_send": self.number,
            "dry_run": self._sender is None,
            "sent": self.sent,
            "stopped": self.stopped,
            "seconds": round(self.seconds, 3),
        }


def _table(tallies: Sequence[tuple[str, Tally]]) -> Table:
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("reason", NUMBERS[0], "oldest (UTC)", "newest", *NUMBERS[1:]):
        found.add_column(
            name, justify="right" if name in NUMBERS else "left", no_wrap=name == "reason"
        )
    for reason, tally in tallies:
        later = (tally.to_send, tally.sent_before, tally.failed_again)
        found.add_row(
            Text(reason),
            f"{tally.letters:,}",
            _moment_text(tally.oldest),
            _moment_text(tally.newest),
            *(f"{number:,}" if number else "–" for number in later),
        )
    return found


def _examples(tallies: Sequence[tuple[str, Tally]]) -> Table:
    """The newest message of each reason, which a stranger has written in part."""
    found = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    found.add_column("reason", no_wrap=True)
    found.add_column("newest message", overflow="fold")
    for reason, tally in tallies:
        plain = "".join(c if c.isprintable() else " " for c in tally.example)
        found.add_row(Text(reason), Text(plain))
    return found


def _moment_text(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%d %H:%M}"


# -- what is asked for ----------------------------------------------------------------


def wanted(
    settings: Settings,
    reasons: Sequence[str] | None,
    partitions: Sequence[int] | None,
    since: str | None,
    until: str | None,
) -> Filter:
    """What the options say; ValueError for people."""
    known, last = get_args(Fault), settings.topics.partitions - 1
    for reason in reasons or ():
        if reason not in known:
            raise ValueError(f"there is no reason {reason!r}; there are {', '.join(known)}")
    for partition in partitions or ():
        if not 0 <= partition <= last:
            raise ValueError(f"there is no partition {partition}; there are 0 to {last}")
    now = time.time_ns() // 1_000_000
    times = moment(since, now), moment(until, now)
    return Filter(frozenset(reasons or ()), *times, frozenset(partitions or ()))


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
        wrong = f"{text!r} is no time; write 2026-11-23T06:00:00Z, or how long ago: 2h"
        raise ValueError(wrong) from None
