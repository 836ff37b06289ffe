"""The figures of `measure` as a table for people, and the targets that they are held against."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Result = Mapping[str, Any]
US = "segstream"


class Target(NamedTuple):
    """How segstream must stand to a peer: `figure` of the peer over ours, at least `least`."""

    peer: str
    tuned: str
    figure: str
    least: float
    words: str


TARGETS = (
    Target("loop", "as it comes", "us_cpu", 80, "the straightforward loop's CPU per event"),
    Target("quix", "commit 5 s", "us_cpu", 12, "Quix Streams' CPU per event, exactly once"),
    Target("streams", "tuned", "us_cpu", 2, "tuned Kafka Streams' CPU per event"),
    Target("streams", "tuned", "p50_ms", 5, "tuned Kafka Streams' latency, p50"),
    Target("floor", "", "us_cpu", 1 / 3, "the floor's CPU per event"),
)


CATCHING_UP = ("µs of CPU", "× ours", "events/s", "Kafka µs", "Valkey µs", "warm-up", "measured")
PACED = ("rate", "p50 ms", "p99 ms", "× ours", "µs of CPU", "changes")


def verdicts(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    """Each target per traffic, where both figures are there."""
    for ours in (r for r in results if r["peer"] == US):
        for target in TARGETS:
            for theirs in results:
                if (theirs["peer"], theirs["tuned"]) != (target.peer, target.tuned):
                    continue
                figure, own = theirs.get(target.figure), ours.get(target.figure)
                if theirs["traffic"] != ours["traffic"] or figure is None or own is None:
                    continue
                ratio = figure / own
                yield {
                    "traffic": ours["traffic"],
                    **target._asdict(),
                    "ratio": round(ratio, 3),
                    "reached": ratio >= target.least,
                }


def show(console: Console, found: Mapping[str, Any]) -> None:
    """Print everything that `measure.run` has found."""
    machine, settings = found["machine"], found["settings"]
    versions = " · ".join(f"{name} {value}" for name, value in found["versions"].items())
    console.print(
        f"{found['date']} · {machine['cpu']}, {machine['cores']} cores, load {machine['load']} "
        f"before · {machine['system']}\n{versions}\n{settings['customers']:,} customers; one core "
        "for the peer, the others for the servers",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
    for traffic, zipf in settings["traffics"]:
        _table(console, f"{traffic} (Zipf {zipf})", found["results"], traffic)
    for delivery in dict.fromkeys(r["delivery"] for r in found["results"] if r["delivery"]):
        names = dict.fromkeys(r["peer"] for r in found["results"] if r["delivery"] == delivery)
        console.print(f"{delivery}: {', '.join(names)}", highlight=False)
    console.print(
        "µs of CPU: of the peer's process, all its threads, after so many calls of warm-up. "
        "Changes: all of them are the oracle's; customers on a border between two centroids "
        f"({_borders(found['results'])}) are left out.",
        highlight=False,
        soft_wrap=True,
    )
    for name, why in found["absent"].items():
        console.print(f"{name} is skipped: {why}", markup=False, soft_wrap=True)
    for verdict in verdicts(found["results"]):
        ratio, least = verdict["ratio"], verdict["least"]
        said = f"{ratio:.1f} ×, wanted ≥ {least:g}"
        if least < 1:
            said = f"ours is {1 / ratio:.1f} × that, wanted ≤ {1 / least:g}"
        reached = "reached" if verdict["reached"] else "not reached"
        text = f"{verdict['traffic']}: {verdict['words']}: {said}: {reached}"
        console.print(text, highlight=False, soft_wrap=True)


def _borders(results: Sequence[Result]) -> str:
    """At most how many, of how many."""
    counted = [r for r in results if "customers_on_a_border" in r]
    if not counted:
        return "0"
    most = max(counted, key=lambda r: r["customers_on_a_border"])
    on, others = most["customers_on_a_border"], most["customers_compared"]
    return f"at most {on:,} of {on + others:,}"


def _table(console: Console, title: str, results: Sequence[Result], traffic: str) -> None:
    mine = [r for r in results if r["traffic"] == traffic]
    ours: Result = next((r for r in mine if r["peer"] == US), {})
    tables = [
        (f"{title}: catching up, per event", CATCHING_UP, _catching_up),
        (f"{title}: at a steady rate, event to change", PACED, _paced),
    ]
    for head, columns, cells in tables:
        table = Table(title=head, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("peer", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for result in mine:
            if shown := cells(result, ours):
                table.add_row(_title(result), *shown)
        console.print(table)
    for result in mine:
        if "failed" in result:
            console.print(f"{_title(result)}: {result['failed']}", markup=False, soft_wrap=True)


def _title(result: Result) -> str:
    return f"{result['peer']}, {result['tuned']}".removesuffix(", ")


def _catching_up(result: Result, ours: Result) -> list[str]:
    if "us_cpu" not in result:
        return ["failed"]
    return [
        f"{result['us_cpu']:,.2f}",
        _times(result, ours, "us_cpu"),
        f"{result['per_second']:,}",
        f"{result['us_kafka']:,.1f}",
        f"{result['us_valkey']:,.1f}",
        f"{result['not_counted']:,}",
        f"{result['measured']:,}",
    ]


def _paced(result: Result, ours: Result) -> list[str]:
    if "paced_per_second" not in result:
        return []
    if result["p50_ms"] is None:
        return ["no change"]
    return [
        f"{result['paced_per_second']:,.0f}/s",
        f"{result['p50_ms']:,.0f}",
        f"{result['p99_ms']:,.0f}",
        _times(result, ours, "p50_ms"),
        f"{result['us_cpu_paced']:,.1f}",
        f"{result['changes']:,}",
    ]


def _times(result: Result, ours: Result, figure: str) -> str:
    own = ours.get(figure)
    return f"{result[figure] / own:,.1f}" if own else ""
