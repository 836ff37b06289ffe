"""`segstream inspect`, `segments`, `watch`, `events`: what is there, for people."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from consumers.demo import sentence
from consumers.settings import Settings
from segstream.core import call
from segstream.core.inspect import Portrait, portrait
from segstream.core.model import Model
from segstream.core.output import ms_text
from segstream.core.record import ModelRecord
from segstream.core.step import Function
from segstream.ports import Refused
from segstream.shell.kafka import headers_of
from segstream.shell.models import Models
from segstream.shell.redis_client import connect
from segstream.shell.view import Reader, state, totals

Stop = Callable[[], bool]


def _models(settings: Settings) -> Mapping[int, ModelRecord]:
    models = Models(settings.kafka, settings.topic("segment-models"))
    models.refresh()
    return models.records()


def inspect(settings: Settings, console: Console, customer: str, stop: Stop, as_json: bool) -> None:
    """Everything about one customer, as of its partition's clock."""
    redis = connect(settings.redis.url)
    found = state(redis, settings.namespace, customer)
    if found is None:
        raise Refused(f"no worker has run in namespace {settings.namespace} yet")
    partition, blob = found
    if blob is None:
        raise Refused(
            f"customer {customer!r} has no State on partition {partition}: no event was accepted, "
            "or all windows are empty for so long that it was forgotten. "
            f"`segstream events {customer}` shows what the log holds"
        )
    checkpoint = totals(redis, settings.namespace, settings.topics.partitions).checkpoints[
        partition
    ]
    records = _models(settings)
    record = records.get(checkpoint.model)
    model = None if record is None else Model(record)
    seen = portrait(Function(settings.definition), customer, blob, checkpoint.clock, model)
    why = _last_change(settings, partition, customer, stop) if seen.segment else None
    rebuilt = checkpoint.rebuilt_from
    if as_json:
        more = {"partition": partition, "why": why, "rebuilt_from": rebuilt}
        console.print_json(json.dumps({**seen._asdict(), **more}))
        return
    _show_portrait(settings, console, customer, partition, seen, record, why)
    if rebuilt is not None:
        note = f"approximate: what came before offset {rebuilt:,} of the log is not in the windows"
        console.print(note, style="yellow", markup=False)


def _last_change(
    settings: Settings, partition: int, customer: str, stop: Stop
) -> dict[str, Any] | None:
    last = None
    for message in Reader(settings.kafka).scan(settings.topic("segment-changes"), partition, stop):
        if message.key() == customer.encode():
            last = json.loads(message.value())
    return last


def _show_portrait(
    settings: Settings,
    console: Console,
    customer: str,
    partition: int,
    seen: Portrait,
    record: ModelRecord | None,
    why: dict[str, Any] | None,
) -> None:
    names = {s.segment: s.name for s in record.segments} if record else {}
    head = f"{customer} on partition {partition}, as of {ms_text(seen.at)}"
    console.print(head, style="bold", markup=False)
    console.print(f"last event {ms_text(seen.last)}, {seen.accepted:,} events accepted")
    if seen.segment:
        name = names.get(seen.segment, "(retired)")
        line = f"segment {name} #{seen.segment} since {ms_text(seen.since)}"
        console.print(line, markup=False)
    else:
        console.print("no segment yet: there is no model, or no row since it became active")
    if why is not None:
        console.print(Text("why: ") + sentence(why), soft_wrap=True)
    if seen.pending:
        name = names.get(seen.pending, "(retired)")
        console.print(f"pending: {name} since {ms_text(seen.pending_since)}", markup=False)
    for title, values in (("windows", seen.terms), ("vector", seen.vector)):
        table = Table(title=title, title_justify="left", show_header=False)
        for name, value in values.items():
            table.add_row(name, "missing" if value is None else f"{value:,.6g}")
        console.print(table)
    if seen.distances:
        table = Table(title="distance to each segment", title_justify="left")
        table.add_column("segment")
        table.add_column("distance", justify="right")
        table.add_column("of own", justify="right")
        own = seen.distances.get(seen.segment)
        for segment, distance in sorted(seen.distances.items(), key=lambda item: item[1]):
            share = f"{distance / own:.0%}" if own else "–"
            mark = " ◀" if segment == seen.segment else ""
            table.add_row(f"{escape(names[segment])} #{segment}{mark}", f"{distance:.3f}", share)
        console.print(table)
        rule = settings.definition.hysteresis
        note = f"a move needs at most {rule.clear:.0%}, or {rule.held:.0%} for {rule.hold}"
        console.print(note, style="dim", markup=False)


def active(settings: Settings) -> tuple[ModelRecord, Mapping[int, int]]:
    """The active model, and how many customers each segment has. Refused if there is none."""
    redis = connect(settings.redis.url)
    found = totals(redis, settings.namespace, settings.topics.partitions)
    record = _models(settings).get(found.model)
    if record is None:
        raise Refused(
            "there is no active model yet: the first one needs "
            f"{settings.training.first_customers} panel customers and a day of events"
        )
    return record, found.segments


def segments(
    console: Console, record: ModelRecord, customers: Mapping[int, int], as_json: bool
) -> None:
    """The active model: ids, names, sizes, profiles."""
    if as_json:
        body = record.model_dump(mode="json", by_alias=True)
        console.print_json(json.dumps({**body, "customers": dict(customers)}))
        return
    table = Table(title=f"model {record.model} of {record.at}", title_justify="left")
    for name in ("id", "name", "customers", "share of panel"):
        table.add_column(name, justify="left" if name == "name" else "right")
    for feature in record.features:
        table.add_column(feature.name, justify="right")
    for segment in sorted(record.segments, key=lambda s: -customers.get(s.segment, 0)):
        values = [segment.profile.get(f.name) for f in record.features]
        table.add_row(
            str(segment.segment),
            escape(segment.name),
            f"{customers.get(segment.segment, 0):,}",
            f"{segment.share:.0%}",
            *("–" if v is None else f"{v:,.4g}" for v in values),
        )
    console.print(table)


def watch(settings: Settings, console: Console, stop: Stop, *, beginning: bool, raw: bool) -> None:
    """Changes as they are committed, one a line, until Ctrl-C."""
    topic = settings.topic("segment-changes")
    for change in Reader(settings.kafka).follow(topic, stop, beginning=beginning):
        if raw:
            console.out(json.dumps(change), highlight=False)
        else:
            console.print(sentence(change), soft_wrap=True)


def events(settings: Settings, console: Console, customer: str, stop: Stop) -> None:
    """What the log holds about a customer, in log order."""
    redis = connect(settings.redis.url)
    found = state(redis, settings.namespace, customer)
    if found is None:
        raise Refused(f"no worker has run in namespace {settings.namespace} yet")
    number = 0
    topic = settings.topic("customer-events")
    for message in Reader(settings.kafka).scan(topic, found[0], stop):
        try:
            reading = call.read(message.value(), headers_of(message))
        except call.Invalid:
            continue
        if isinstance(reading, call.Call) and reading.customer == customer:
            number += 1
            at = message.timestamp()[1] if reading.time is None else reading.time
            value = message.value().decode()
            line = f"{message.offset():>9} {ms_text(at)} {reading.name} {reading.message_id or ''}"
            console.print(line, markup=False, soft_wrap=True)
            console.print(f"{'':>9} {value[:400]}", style="dim", markup=False, soft_wrap=True)
    console.print(f"{number:,} events of {customer} on partition {found[0]}", markup=False)
