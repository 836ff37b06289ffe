"""`segstream restore`: where partitions stand after a loss, and the two ways to help them."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consumers.settings import Settings
from consumers.setup import plan_of
from segstream.core.batch import Position
from segstream.core.output import ms_text
from segstream.core.restore import Found, Verdict
from segstream.core.step import Function, Partition
from segstream.ports import Published
from segstream.shell import restore as shell
from segstream.shell.models import Models
from segstream.shell.redis import Keys
from segstream.shell.redis_client import connect
from segstream.shell.topics import positions, publish

MEANS: dict[Verdict, str] = {
    "goes on": "",
    "catches up": "what Redis lacks is computed again by itself, nothing is published twice",
    "log too short": "the records behind N are gone from the log. Restore a newer Redis backup; "
    "without one, `segstream restore --approximate` makes an approximate new start",
    "W is lost": "nobody knows what is published. If Redis is intact, everything up to N is: "
    "`segstream restore --published` sets W to N. A new installation: `segstream topics create`",
    "log was cut": "records that were computed are gone from the end of the log. Restore the log; "
    "otherwise begin anew under another namespace and topics.prefix",
    "other layout": "they were computed under another configuration. Start with the former one, or "
    "begin anew beside it: docs/operations.md, Changing the definition",
}
FINE: tuple[Verdict, ...] = ("goes on", "catches up")


class Restore:
    """One run: look, then perhaps help."""

    def __init__(self, settings: Settings, partitions: Sequence[int]) -> None:
        self._settings, self._plan = settings, plan_of(settings)
        self._redis = connect(settings.redis.url)
        self._keys = Keys(settings.namespace)
        self._events = settings.topic("customer-events")
        self._asked = frozenset(partitions) or frozenset(range(settings.topics.partitions))
        self.found: list[Found] = []
        self.done: list[int] = []
        self.look()

    def look(self) -> None:
        """Where the partitions that are asked for stand, now."""
        published = positions(self._settings.kafka, self._plan)
        found = shell.look(self._settings.kafka, self._redis, self._keys, self._events, published)
        self.found = [f for f in found if f.partition in self._asked]

    def verdict(self, found: Found) -> Verdict:
        return found.verdict(self._settings.layout)

    def those(self, verdict: Verdict) -> list[Found]:
        return [found for found in self.found if self.verdict(found) == verdict]

    @property
    def fine(self) -> bool:
        """Whether segmenters would start."""
        return all(self.verdict(found) in FINE for found in self.found)

    # -- in words ---------------------------------------------------------------------

    def show(self, console: Console) -> None:
        console.print(self._table())
        for line in self._lines():
            console.print(line, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        title = "offsets of each partition (N: where Redis stands; W: what is published)"
        table = Table(title=title, title_justify="left")
        for name in ("partition", "N", "W", "log from", "log to", "to go"):
            table.add_column(name, justify="right")
        table.add_column("verdict", no_wrap=True)
        for found in self.found:
            published, verdict = found.published, self.verdict(found)
            table.add_row(
                str(found.partition),
                f"{found.stands.offset:,}" if found.checkpoint else "empty",
                f"{published.offset:,}" if published else "lost",
                f"{found.start:,}",
                f"{found.end:,}",
                f"{found.ahead:,}",
                verdict if verdict in FINE else f"[red]{verdict}[/red]",
            )
        return table

    def _lines(self) -> Iterable[str]:
        """What each verdict means, and how new a backup must be."""
        for verdict, means in MEANS.items():
            those = self.those(verdict)
            if those and means:
                yield f"{verdict} ({_numbers(those)}): {means}"
        for found in self.those("log too short"):
            at = shell.appended(self._settings.kafka, self._events, found.partition)
            since = "" if at is None else f", so taken after {ms_text(at)}"
            yield (
                f"partition {found.partition} needs a backup with N at offset {found.start:,} or "
                f"later{since}"
            )
        if rebuilt := [f for f in self.found if f.checkpoint and f.checkpoint.rebuilt_from]:
            yield f"{_numbers(rebuilt)} had an approximate new start before"
        if self.fine:
            yield "segmenters can be started: nothing else is needed"

    def figures(self) -> dict[str, Any]:
        """The JSON of `segstream restore --json`."""
        return {
            "fine": self.fine,
            "done": self.done,
            "partitions": [
                {
                    "partition": f.partition,
                    "n": f.stands._asdict() if f.checkpoint else None,
                    "w": f.published._asdict() if f.published else None,
                    "log": [f.start, f.end],
                    "again": f.again,
                    "ahead": f.ahead,
                    "verdict": self.verdict(f),
                    "rebuilt_from": f.checkpoint.rebuilt_from if f.checkpoint else None,
                }
                for f in self.found
            ],
        }

    # -- help -------------------------------------------------------------------------

    def help(self, *, approximate: bool, ask: Callable[..., bool] | None, console: Console) -> None:
        """Say what it costs, ask, do it, and look again. `ask` None: without asking."""
        those = self.those("log too short") if approximate else self.unpublished()
        if not those:
            console.print("no partition needs that, or can be helped so")
            return
        shell.require_nobody(self._settings.kafka, self._plan.group)
        for line in self.losses(those) if approximate else self.warnings(those):
            console.print(line, markup=False, soft_wrap=True)
        what = "Start anew" if approximate else "Set W to N for"
        if ask is not None and not ask(f"{what}: {_numbers(those)}?", err=True):
            return
        if approximate:
            self.rebuild(those, console)
        else:
            self.publish(those)
        self.look()

    # -- W is lost --------------------------------------------------------------------

    def unpublished(self) -> list[Found]:
        """Whose W can be set to N."""
        return [found for found in self.those("W is lost") if found.checkpoint is not None]

    def warnings(self, those: Sequence[Found]) -> Iterable[str]:
        """What would be said twice, because a segmenter died between its commit and its write."""
        changes = self._settings.topic("segment-changes")
        for found in those:
            if number := shell.beyond(self._settings.kafka, changes, found):
                yield (
                    f"partition {found.partition}: {number:,} changes are published beyond N; they "
                    "would be published a second time, with the same ce_id. A Redis that was "
                    "restored from a backup must not be used for this"
                )

    def publish(self, those: Sequence[Found]) -> None:
        """W := N. Where the States begin nobody knows any more: 0 is never too late."""
        layout = self._settings.layout
        publish(
            self._settings.kafka,
            self._plan,
            {f.partition: Published(f.stands, layout, 0) for f in those},
        )
        self.done = [f.partition for f in those]

    # -- an approximate new start -----------------------------------------------------

    def losses(self, those: Sequence[Found]) -> Iterable[str]:
        """What an approximate new start costs."""
        yield (
            "Approximate: windows and traits know only what the log still holds; repeats of older "
            "messages count again; pending moves are forgotten; counters begin anew."
        )
        yield (
            "Exact: every customer stays in its published segment, and its next change goes on "
            "from there; nothing is published twice. What Redis holds of them is deleted."
        )
        for found in those:
            lost = found.start - (found.published or Position(0, 0)).offset
            if lost > 0:
                yield (
                    f"partition {found.partition}: {lost:,} offsets from W to the beginning of the "
                    "log were never computed, and are gone"
                )

    def rebuild(self, those: Sequence[Found], console: Console) -> None:
        """One partition after the other, each whole or not at all."""
        settings = self._settings
        function = Function(settings.definition)
        models = Models(settings.kafka, settings.topic("segment-models"))
        topics = (self._events, settings.topic("customer-segments"))
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            for found in those:
                number, start = found.partition, found.start
                total = found.renewed.offset - start
                task = shown.add_task(f"partition {number}", total=total)

                def progress(offset: int, task: Any = task, start: int = start) -> None:
                    shown.update(task, completed=offset - start)

                where = Partition(
                    number, settings.topics.partitions, settings.topics.partitioner, self._events
                )
                new = shell.rebuild(
                    settings.kafka, topics, function, models, where, found, settings.layout,
                    progress,
                )  # fmt: skip
                shell.replace(self._redis, self._keys, number, new)
                shown.remove_task(task)
                self.done.append(number)


def _numbers(those: Sequence[Found]) -> str:
    """`partition 3`, `partitions 1, 2 and 3`."""
    numbers = [str(found.partition) for found in those]
    if len(numbers) == 1:
        return f"partition {numbers[0]}"
    return f"partitions {', '.join(numbers[:-1])} and {numbers[-1]}"


def show_json(figures: dict[str, Any]) -> None:
    print(json.dumps(figures))  # noqa: T201
