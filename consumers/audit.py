"""`segstream audit`: is what Redis and the topics hold what the log says?"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consumers.settings import Settings
from consumers.setup import plan_of
from segstream.core.audit import Problem, Sample
from segstream.core.hash import customer_hash, partitions_of
from segstream.core.step import Function, Partition
from segstream.ports import Published, Refused
from segstream.shell.audit import Report, Sources, Topics, audit
from segstream.shell.models import Models
from segstream.shell.redis import Keys
from segstream.shell.redis_client import connect
from segstream.shell.topics import positions
from segstream.shell.view import totals

SHOWN = 20
"""Problems that are shown of a partition; --json has up to a thousand."""
INCOMPLETE = 3
"""Exit code: nothing wrong was found, but not everything could be computed again."""


class Wanted(NamedTuple):
    """What is asked for. `named`: only these customers. `partitions` empty: all."""

    customers: int
    named: Sequence[str]
    partitions: Sequence[int]
    seed: int
    plain: bool  # customers by their ids, instead of their hashes


def wanted_of(
    settings: Settings,
    customers: int,
    named: Sequence[str],
    partitions: Sequence[int],
    seed: int | None,
    *,
    plain: bool,
) -> Wanted:
    """What the options say; ValueError for people."""
    for partition in partitions:
        if not 0 <= partition < settings.topics.partitions:
            last = settings.topics.partitions - 1
            raise ValueError(f"there is no partition {partition}; there are 0 to {last}")
    seed = secrets.randbits(32) if seed is None else seed
    return Wanted(customers, named, partitions, seed, plain)


class Audit:
    """One run over the partitions, one after the other."""

    def __init__(self, settings: Settings, wanted: Wanted) -> None:
        self.wanted, self._settings = wanted, settings
        self._redis = connect(settings.redis.url)
        self._models = Models(settings.kafka, settings.topic("segment-models"))
        self._function = Function(settings.definition)
        self._published = _published(settings)
        self._named = self._placed(wanted.named)
        found = totals(self._redis, settings.namespace, settings.topics.partitions)
        self._share = min(1.0, wanted.customers / max(1, found.customers))
        self._customers = found.customers
        self.reports: list[Report] = []

    def _placed(self, customers: Sequence[str]) -> dict[int, list[str]]:
        """Named customers by their partitions."""
        topics = self._settings.topics
        raw = [customer.removeprefix("a:").encode() for customer in customers]
        found: dict[int, list[str]] = {}
        numbers = partitions_of(raw, topics.partitions, topics.partitioner).tolist() if raw else []
        for partition, customer in zip(numbers, customers, strict=True):
            found.setdefault(partition, []).append(customer)
        return found

    @property
    def partitions(self) -> list[int]:
        """Those that are asked for; else those of the customers that are; else all."""
        return sorted(set(self.wanted.partitions or self._named or self._published))

    @property
    def problems(self) -> int:
        return sum(report.number for report in self.reports)

    @property
    def code(self) -> int:
        """Exit code."""
        if self.problems:
            return 1
        return INCOMPLETE if any(report.obstacle for report in self.reports) else 0

    def run(self, console: Console) -> None:
        """Unavailable: servers did not answer, or Redis went back meanwhile."""
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as shown:
            for number in self.partitions:
                published = self._published[number]
                total = published.position.offset - published.origin
                task = shown.add_task(f"partition {number}", total=total)
                origin = published.origin

                def progress(offset: int, task: Any = task, origin: int = origin) -> None:
                    shown.update(task, completed=offset - origin)

                self.reports.append(audit(self._sources(number), self._where(number), published,
                                          progress))  # fmt: skip
                shown.remove_task(task)

    def _where(self, number: int) -> Partition:
        topics = self._settings.topics
        topic = self._settings.topic("customer-events")
        return Partition(number, topics.partitions, topics.partitioner, topic)

    def _sources(self, number: int) -> Sources:
        settings, named = self._settings, self._named.get(number, ())
        share = 0.0 if self._named else self._share
        return Sources(
            settings.kafka,
            self._redis,
            Keys(settings.namespace),
            Topics(
                settings.topic("customer-events"),
                settings.topic("segment-changes"),
                settings.topic("customer-segments"),
            ),
            self._function,
            self._models,
            Sample(share, self.wanted.seed, named),
        )

    # -- in words ---------------------------------------------------------------------

    def show(self, console: Console) -> None:
        """A row for each partition, then what is wrong, then the verdict."""
        console.print(self._table())
        for report in self.reports:
            for line in self._lines(report):
                console.print(line, markup=False, soft_wrap=True)
        style = {0: "green", 1: "red"}.get(self.code, "yellow")
        console.print(self._verdict(), style=style, markup=False, soft_wrap=True)

    def _table(self) -> Table:
        found = Table(title=f"audit of {self._whom()}", title_justify="left")
        found.add_column("partition", justify="right")
        found.add_column("computed again", justify="left")
        for name in ("up to", "records", "customers", "changes", "problems"):
            found.add_column(name, justify="right")
        for report in self.reports:
            found.add_row(
                str(report.partition),
                "no, see below" if report.obstacle else "yes",
                f"{report.position.offset:,}",
                f"{report.records:,}",
                f"{report.customers:,}",
                f"{report.changes:,}",
                f"{report.number:,}" if report.number else "–",
            )
        return found

    def _whom(self) -> str:
        asked, there, named = self.wanted.customers, self._customers, len(self.wanted.named)
        if named:
            return "one customer" if named == 1 else f"{named:,} customers"
        if asked >= there:
            return f"all {there:,} customers"
        return f"about {asked:,} of {there:,} customers (--seed {self.wanted.seed})"

    def _lines(self, report: Report) -> Iterable[str]:
        if report.obstacle:
            yield (
                f"partition {report.partition} could not be computed again: {report.obstacle}. "
                "Looked at instead: order and numbers of its changes; whether the last change, "
                "the membership and the State of a customer agree"
            )
        for problem in report.problems[:SHOWN]:
            yield f"partition {report.partition}, {self._about(problem)}: {problem.text}"
        if report.number > SHOWN:
            yield f"… and {report.number - SHOWN:,} more on partition {report.partition} (--json)"

    def _about(self, problem: Problem) -> str:
        whom = self._shown(problem.customer)
        return f"{problem.about} of customer {whom}" if whom else problem.about

    def _shown(self, customer: str) -> str:
        if not customer or self.wanted.plain:
            return customer
        return f"{customer_hash(customer):016x}"

    def _verdict(self) -> str:
        if self.problems:
            number = f"{self.problems:,} problem" + "s" * (self.problems > 1)
            return f"{number}. What each means: docs/operations.md, Audit"
        if self.code == INCOMPLETE:
            return "nothing wrong was found, but not everything could be computed again"
        return "everything is as the log says"

    def figures(self) -> dict[str, Any]:
        """The JSON of `segstream audit --json`."""
        return {
            "seed": self.wanted.seed,
            "problems": self.problems,
            "complete": self.code != INCOMPLETE and not any(r.obstacle for r in self.reports),
            "partitions": [self._figures_of(report) for report in self.reports],
        }

    def _figures_of(self, report: Report) -> Mapping[str, Any]:
        return {
            "partition": report.partition,
            "obstacle": report.obstacle or None,
            "position": report.position._asdict(),
            "records": report.records,
            "customers": report.customers,
            "changes": report.changes,
            "problems": report.number,
            "found": [
                {"about": p.about, "customer": self._shown(p.customer) or None, "text": p.text}
                for p in report.problems
            ],
        }


def _published(settings: Settings) -> dict[int, Published]:
    """W of all partitions; Refused if there is none, or if it is of another configuration."""
    found = {}
    for number, published in positions(settings.kafka, plan_of(settings)).items():
        if published is None:
            raise Refused(
                f"partition {number} has no published position: nobody knows where its States "
                "begin. `segstream restore` shows what can be done"
            )
        if published.layout != settings.layout:
            raise Refused(
                f"partition {number} was computed under another configuration: layout "
                f"{published.layout[:12]} in Kafka, {settings.layout[:12]} here. "
                "Audit it with the configuration of its segmenters"
            )
        found[number] = published
    return found


def show_json(figures: dict[str, Any]) -> None:
    print(json.dumps(figures))  # noqa: T201
