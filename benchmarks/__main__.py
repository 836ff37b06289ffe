"""`python -m benchmarks`: end to end. `stages`: the core alone. `peers`: others, same work."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import bad, end_to_end, report, stages
from benchmarks.peers import measure
from benchmarks.peers import report as peers_report
from benchmarks.peers.line_up import MAKERS
from benchmarks.traffic import FLAT, HOT
from consumers.settings import load

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    events: Annotated[int, typer.Option(min=1_000, help="Counted, per run.")] = 400_000,
    customers: Annotated[int, typer.Option(min=100, help="Customers, all with State.")] = 100_000,
    zipf: Annotated[float | None, typer.Option(help="One exponent; else flat and hot.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the median is shown.")] = 3,
    file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure one segmenter process between real Kafka and Valkey (some minutes)."""
    if context.invoked_subcommand is not None:
        return
    console = Console()
    if sys.platform != "linux":
        console.print("CPU time of other processes is read from /proc: this needs Linux.")
        raise typer.Exit(1)
    plan = end_to_end.Plan(_traffics(zipf), events, customers, repeats)
    tell = Console(stderr=True, style="dim").print
    found = end_to_end.run(plan, load({}), lambda text: tell(text, markup=False))
    report.show(console, found)
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n")


def _traffics(zipf: float | None) -> tuple[tuple[str, float], ...]:
    """(name, exponent) of what is asked for."""
    if zipf is None:
        return (("flat", FLAT), ("hot", HOT))
    return (({FLAT: "flat", HOT: "hot"}.get(zipf, "own"), zipf),)


@app.command("stages")
def stages_command(
    profile: Annotated[bool, typer.Option(help="Where the time goes, by cProfile.")] = False,
    events: Annotated[int, typer.Option(help="Per run, on one partition.")] = 25_000,
    customers: Annotated[int, typer.Option(help="On all four partitions.")] = 100_000,
) -> None:
    """The pure core in memory: µs of CPU per event, by stage (some seconds)."""
    stages.run(Console(), customers=customers, events=events, profile=profile)


@app.command("bad")
def bad_command(
    servers: Annotated[bool, typer.Option(help="Between real servers, some minutes.")] = False,
    events: Annotated[int, typer.Option(min=1_000, help="Per run and kind of input.")] = 10_000,
    customers: Annotated[int, typer.Option(help="On all four partitions.")] = 20_000,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the median is shown.")] = 3,
) -> None:
    """Bad input against good, of many kinds: the core in memory, or a segmenter on servers."""
    tell = Console(stderr=True, style="dim").print
    if servers:
        found = bad.on_servers(customers, events, repeats, lambda text: tell(text, markup=False))
    else:
        found = bad.in_memory(customers, events, repeats)
    title = "One segmenter, transactions included" if servers else "Pure core"
    bad.show(Console(), f"Bad input against good. {title}", found)


@app.command("peers")
def peers_command(
    events: Annotated[
        int, typer.Option(min=200_000, help="Of the fast ones; slow ones get a part of it.")
    ] = 2_000_000,
    customers: Annotated[int, typer.Option(min=100, help="Customers with a past.")] = 100_000,
    zipf: Annotated[float | None, typer.Option(help="One exponent; else flat and hot.")] = None,
    only: Annotated[str, typer.Option(help="Some of them.")] = ",".join(MAKERS),
    seconds: Annotated[float, typer.Option(min=6, help="At the rate of the latencies.")] = 25.0,
    file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Other engines on the same work, checked for equal changes (half an hour)."""
    console = Console()
    console.width = max(console.width, 96)  # of the tables
    names = tuple(only.split(","))
    if unknown := sorted(set(names) - MAKERS.keys()):
        known = ", ".join(MAKERS)
        raise typer.BadParameter(f"no such peer: {', '.join(unknown)}; there are: {known}")
    if sys.platform != "linux":
        console.print("CPU time of other processes is read from /proc: this needs Linux.")
        raise typer.Exit(1)
    tell = Console(stderr=True, style="dim").print
    plan = measure.Plan(_traffics(zipf), names, events, customers, seconds)

    def keep(found: dict[str, Any]) -> None:
        if file is not None:  # after each peer: a run takes long
            found["targets"] = list(peers_report.verdicts(found["results"]))
            file.write_text(json.dumps(found, indent=2) + "\n")

    found = measure.run(plan, lambda text: tell(text, markup=False), keep)
    peers_report.show(console, found)
    if any("failed" in result for result in found["results"]):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
