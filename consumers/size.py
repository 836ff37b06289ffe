"""`segstream size`: what an installation of a given size needs, and costs."""

import json
import tomllib
from importlib.resources import files
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumers import settings as settings_
from consumers.settings import Settings
from consumers.terminal import Json, out
from segstream.core.demand import Configured, Demand, Each, Measured, Prices, Size, TooBig, Traffic
from segstream.core.size import n, size
from segstream.core.step import Function

app = typer.Typer()
MEASURED = "measured.toml"


def measured() -> Measured:
    """The constants of this version."""
    body = tomllib.loads((files("segstream") / MEASURED).read_text(encoding="utf-8"))

    def each(name: str) -> Each:
        return Each(flat=body[name]["flat"], hot=body[name]["hot"])

    redis, records = body["redis"], body["records"]
    return Measured(
        head_bytes=body["state"]["head_bytes"],
        ring_share=body["state"]["ring_share"],
        events_per_core=each("events_per_core"),
        states_per_event=each("states_per_event"),
        redis_us_per_event=each("redis_us_per_event"),
        tick_us=body["segmenter"]["tick_us"],
        redis_tick_us=redis["tick_us"],
        entry_bytes=redis["entry_bytes"],
        member_bytes=redis["member_bytes"],
        change_bytes=records["change_bytes"],
        membership_bytes=records["membership_bytes"],
        changes_per_customer_month=body["changes"]["per_customer_month"],
        segmenter_gb=body["segmenter"]["memory_gb"],
        trainer_gb=body["trainer"]["memory_gb"],
    )


def configured(settings: Settings) -> Configured:
    """What of the settings matters: how many bytes a State has follows from the definition."""
    definition, known = settings.definition, measured()
    layout = Function(definition).layout
    rings = layout.dtype.itemsize - layout.head_bytes
    return Configured(
        namespace=settings.namespace,
        state_bytes=round(known.head_bytes + rings * known.ring_share),
        tick_seconds=definition.tick.minutes * 60,
    )


@app.command("size")
def size_(
    customers: Annotated[
        float,
        typer.Option(help="How many were heard of within two of the longest windows."),
    ],
    events_per_second: Annotated[
        float, typer.Option(help="At the busiest time that must be kept up with.")
    ],
    traffic: Annotated[
        Traffic, typer.Option(help="flat: most events are of different customers; hot: of a few.")
    ] = "flat",
    event_bytes: Annotated[
        int, typer.Option(help="Of a record as it travels: key, headers, compression.")
    ] = 300,
    id_bytes: Annotated[int, typer.Option(help="Of a customer's id.")] = 36,
    retention_days: Annotated[
        float, typer.Option(help="For which customer-events are kept.")
    ] = 30.0,
    replication: Annotated[int, typer.Option(help="Copies of each partition in Kafka.")] = 3,
    redis_replicas: Annotated[int, typer.Option(help="Of each Redis primary.")] = 1,
    readers: Annotated[int, typer.Option(help="Programs that read the changes.")] = 1,
    utilisation: Annotated[
        float,
        typer.Option(help="Of cores and memory, at most; the rest is for failures."),
    ] = 0.6,
    shard_gb: Annotated[float, typer.Option(help="Memory of a Redis node, at most.")] = 32.0,
    redis_vcpus: Annotated[int, typer.Option(help="Of a Redis node.")] = 2,
    kafka_vcpus: Annotated[int, typer.Option(help="Of all brokers together; 0: not counted.")] = 0,
    trainers: Annotated[int, typer.Option(help="One works, the others stand by.")] = 2,
    partitions: Annotated[
        int | None,
        typer.Option(help="If chosen already.", show_default="as needed"),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(help="If chosen already.", show_default="as needed"),
    ] = None,
    even_slots: Annotated[
        bool, typer.Option("--even-slots", help="Slots are given out by partitions: see --json.")
    ] = False,
    price_vcpu_hour: Annotated[float, typer.Option(help="Of a core for an hour.")] = 0.04,
    price_memory_gb: Annotated[float, typer.Option(help="Of a GB of memory for a month.")] = 3.0,
    price_disk_gb: Annotated[float, typer.Option(help="Of a GB of disk for a month.")] = 0.08,
    price_traffic_gb: Annotated[float, typer.Option(help="Of a GB between machines.")] = 0.01,
    as_json: Json = False,
) -> None:
    """What an installation needs: partitions, segmenters, Redis, Kafka, and what it costs.

    The State of a customer is that of the settings in force. Prices are round figures of no
    currency and no offer: give your own. See docs/sizing.md.
    """
    try:
        demand = Demand(
            customers=_whole("--customers", customers), events_per_second=events_per_second,
            traffic=traffic, event_bytes=event_bytes, id_bytes=id_bytes,
            retention_days=retention_days, replication=replication, redis_replicas=redis_replicas,
            readers=readers, utilisation=utilisation, shard_gb=shard_gb, redis_vcpus=redis_vcpus,
            kafka_vcpus=kafka_vcpus, trainers=trainers, partitions=partitions, shards=shards,
            even_slots=even_slots,
        )  # fmt: skip
        prices = Prices(
            vcpu_hour=price_vcpu_hour,
            memory_gb=price_memory_gb,
            disk_gb=price_disk_gb,
            traffic_gb=price_traffic_gb,
        )
    except ValidationError as error:
        raise typer.BadParameter(_said(error)) from None
    try:
        found = size(demand, configured(settings_.load()), measured(), prices)
    except TooBig as error:
        raise typer.BadParameter(str(error)) from None
    if as_json:
        print(json.dumps(body(found)))  # noqa: T201
    else:
        show(found, out)


def _whole(option: str, value: float) -> int:
    if not value.is_integer():
        raise typer.BadParameter(f"{option}: {value:g} is not a whole number")
    return int(value)


def _said(error: ValidationError) -> str:
    """Every mistake, under the names of the options."""
    before = "price-" if error.title == Prices.__name__ else ""
    return "; ".join(
        f"--{before}{str(mistake['loc'][0]).replace('_', '-')}: {mistake['msg'].lower()}, "
        f"not {mistake['input']:g}"
        for mistake in error.errors()
    )


def body(found: Size) -> dict[str, Any]:
    """As `--json` prints it."""
    return {
        "lines": [line._asdict() for line in found.lines],
        "shards": [
            {"partitions": shard.partitions, "slots": list(shard.slots)} for shard in found.shards
        ],
        "notes": found.notes,
    }


def show(found: Size, console: Console) -> None:
    """A table to check by hand."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("from")
    before = ""
    for line in found.lines:
        if line.part != before:
            table.add_section()
            table.add_row(f"[bold]{line.part}[/bold]")
        before = line.part
        table.add_row(f"  {line.name}", n(line.value), line.unit, escape(line.how))
    console.print(table)
    for note in found.notes:
        console.print(f"! {note}", style="yellow", markup=False)
