"""The figures of `end_to_end` as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.end_to_end import STAGES, TARGET

_HEAD = (
    ("events/s per core (whole process)", "events_per_process_cpu_second"),
    ("events/s per core (main thread alone)", "events_per_main_thread_cpu_second"),
    ("events/s of wall time on this machine", "events_per_wall_second"),
    ("CPU seconds, whole process", "process_cpu_seconds"),
    ("CPU seconds, main thread", "main_thread_cpu_seconds"),
    ("wall seconds", "wall_seconds"),
    ("batches", "batches"),
    ("changes", "changes"),
)
_STAGES = (
    *((stage, f"us_{stage}") for stage in STAGES),
    ("main thread, outside the stages", "us_main_other"),
    ("librdkafka's and other threads", "us_other_threads"),
    ("whole process", "us_process"),
    ("besides: Kafka broker", "us_kafka"),
    ("besides: Valkey", "us_valkey"),
)


def show(console: Console, found: dict[str, Any]) -> None:
    """Print everything that `end_to_end.run` has found."""
    machine, settings = found["machine"], found["settings"]
    versions = " · ".join(f"{name} {value}" for name, value in found["versions"].items())
    console.print(
        f"{found['date']} · {machine['cpu']}, {machine['cores']} cores, load {machine['load']} "
        f"before · {machine['system']}\n{versions}\n"
        f"{settings['customers']:,} customers with State, {settings['partitions']} partitions, "
        f"{settings['events']:,} events per run, median of {settings['repeats']} runs",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    head = _table("One segmenter process, catching up, transactions included", found["results"])
    for text, key in _HEAD:
        head.add_row(text, *(_number(r["median"][key]) for r in found["results"]))
    head.add_row("peak memory, MB", *(f"{r['peak_rss_mb']:,}" for r in found["results"]))
    console.print(head)
    stages = _table("CPU of one event, µs", found["results"])
    for text, key in _STAGES:
        stages.add_row(text, *(f"{r['median'][key]:.2f}" for r in found["results"]))
    console.print(stages)
    for result in found["results"]:
        if result["traffic"] == "flat":
            reached = result["median"]["events_per_process_cpu_second"]
            verdict = "reached" if reached >= TARGET else "not reached"
            console.print(
                f"Target: ≥ {TARGET:,} events/s per core of whole-process CPU on flat traffic: "
                f"{verdict} ({reached:,.0f})",
                highlight=False,
                soft_wrap=True,
            )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2f}"


def _table(title: str, results: list[dict[str, Any]]) -> Table:
    table = Table(title=title)
    table.add_column("")
    for result in results:
        table.add_column(f"{result['traffic']} (Zipf {result['zipf']})", justify="right")
    return table
