"""`python -m benchmarks`: everything, into docs/performance.md. Each part can be run alone."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks import bad, check, end_to_end, latency, memory, performance, stages, targets
from benchmarks.machine import facts
from benchmarks.peers import measure
from benchmarks.peers import report as peers_report
from benchmarks.peers.line_up import MAKERS
from benchmarks.settled import SAMPLE
from benchmarks.traffic import FLAT, TRAFFICS

ROOT = Path(__file__).parents[1]
app = typer.Typer(add_completion=False)
Quick = Annotated[bool, typer.Option("--quick", help="Small and short: does it hold?")]
File = Annotated[Path | None, typer.Option("--json", help="Write the figures here.")]
_SMALL = 2_000


def tell(text: str) -> None:
    """Say what is being done, to whoever waits."""
    now = datetime.now(UTC).strftime("%H:%M:%S")
    console = Console(stderr=True, style="dim")
    console.print(f"{now} {text}", markup=False, highlight=False, soft_wrap=True)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    quick: Quick = False,
    out: Annotated[Path | None, typer.Option(help="Folder; else docs, or build if quick.")] = None,
) -> None:
    """Measure everything (about 25 minutes) and write performance.json and performance.md."""
    if sys.platform != "linux":
        Console().print("CPU time of other processes is read from /proc: this needs Linux.")
        raise typer.Exit(1)
    if context.invoked_subcommand is not None:
        return
    found: dict[str, Any] = {
        "command": "make bench" + (" ARGS=--quick" if quick else ""),
        **facts(),
        **{name: part(quick) for name, part in PARTS.items()},
    }
    folder = out or (ROOT / "build/performance" if quick else ROOT / "docs")
    performance.write(found, folder)
    for line in targets.missed(found):
        Console().print(f"missed: {line}", markup=False, highlight=False, soft_wrap=True)
    Console().print(f"{folder}/performance.md", soft_wrap=True)


def _end_to_end(quick: bool) -> list[dict[str, Any]]:
    plan = end_to_end.Plan(TRAFFICS, (100_000, 1_000_000), 200_000, 3)
    if quick:
        plan = end_to_end.Plan(TRAFFICS[:1], (20_000,), 30_000, 1, _SMALL)
    return end_to_end.run(plan, tell)


def _stages(quick: bool) -> list[dict[str, Any]]:
    if quick:
        return stages.run(tell, customers=(20_000, 200_000), events=10_000, repeats=3, of=_SMALL)
    return stages.run(tell)


def _latency(quick: bool) -> dict[str, Any]:
    plan = latency.Plan(100_000, (0.1, 0.5, 0.8), 2_000, 30, SAMPLE, 180)
    if quick:
        plan = latency.Plan(20_000, (0.5,), 2_000, 6, _SMALL, 6)
    return latency.run(plan, tell)


def _workers(quick: bool) -> dict[str, Any]:
    if quick:
        return end_to_end.two_workers(FLAT, 20_000, 30_000, 1, _SMALL, tell)
    return end_to_end.two_workers(FLAT, 100_000, 200_000, 3, SAMPLE, tell)


def _memory(quick: bool) -> dict[str, Any]:
    plan = memory.Plan(1_000_000, 10, 2_000, 30, SAMPLE)
    if quick:
        plan = memory.Plan(20_000, 0.2, 1_000, 4, _SMALL)
    return memory.run(plan, tell)


PARTS = {
    "stages": _stages,
    "end_to_end": _end_to_end,
    "latency": _latency,
    "workers": _workers,
    "memory": _memory,
}


def _alone(name: str, quick: bool, file: Path | None) -> None:
    found = PARTS[name](quick)
    print(performance.section(name, found))
    if file is not None:
        file.write_text(json.dumps({**facts(), name: found}, indent=1) + "\n")


@app.command("end-to-end")
def end_to_end_command(quick: Quick = False, file: File = None) -> None:
    """One segmenter between real Kafka and Redis, catching up; ticks; start; bytes."""
    _alone("end_to_end", quick, file)


@app.command("stages")
def stages_command(
    quick: Quick = False,
    file: File = None,
    profile: Annotated[bool, typer.Option(help="Where the time goes, by cProfile.")] = False,
) -> None:
    """The pure core in memory: µs of CPU per event, by stage (a minute)."""
    _alone("stages", quick, file)
    for name, zipf in TRAFFICS if profile else ():
        print(f"{name}:\n{stages.profiled(zipf, 100_000, 25_000)}")


@app.command("latency")
def latency_command(quick: Quick = False, file: File = None) -> None:
    """From an event to its change, for a read_committed reader, at several rates."""
    _alone("latency", quick, file)


@app.command("workers")
def workers_command(quick: Quick = False, file: File = None) -> None:
    """Two segmenters against one."""
    _alone("workers", quick, file)


@app.command("memory")
def memory_command(quick: Quick = False, file: File = None) -> None:
    """Memory of each process over ten minutes, with a million customers."""
    _alone("memory", quick, file)


@app.command("page")
def page_command() -> None:
    """Write docs/performance.md again, from docs/performance.json and docs/peers.json."""
    folder = ROOT / "docs"
    performance.write(json.loads((folder / "performance.json").read_text()), folder)


@app.command("check")
def check_command(
    record: Annotated[bool, typer.Option(help="Write the baseline instead.")] = False,
) -> None:
    """Instructions of the pure core per event, against the committed baseline (half a minute)."""
    raise typer.Exit(check.run(Console(), record=record))


@app.command("bad")
def bad_command(
    servers: Annotated[bool, typer.Option(help="Between real servers, some minutes.")] = False,
    events: Annotated[int, typer.Option(min=1_000, help="Per run and kind of input.")] = 10_000,
    customers: Annotated[int, typer.Option(help="On all four partitions.")] = 20_000,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the median is shown.")] = 3,
) -> None:
    """Bad input against good, of many kinds: the core in memory, or a segmenter on servers."""
    if servers:
        found = bad.on_servers(customers, events, repeats, tell)
    else:
        found = bad.in_memory(customers, events, repeats)
    title = "One segmenter, transactions included" if servers else "Pure core"
    bad.show(Console(), f"Bad input against good. {title}", found)


def _traffics(zipf: float | None) -> tuple[tuple[str, float], ...]:
    """(name, exponent) of what is asked for."""
    if zipf is None:
        return TRAFFICS
    return (({exponent: name for name, exponent in TRAFFICS}.get(zipf, "own"), zipf),)


@app.command("peers")
def peers_command(
    events: Annotated[
        int, typer.Option(min=200_000, help="Of the fast ones; slow ones get a part of it.")
    ] = 2_000_000,
    customers: Annotated[int, typer.Option(min=100, help="Customers with a past.")] = 100_000,
    zipf: Annotated[float | None, typer.Option(help="One exponent; else flat and hot.")] = None,
    only: Annotated[str, typer.Option(help="Some of them.")] = ",".join(MAKERS),
    seconds: Annotated[float, typer.Option(min=6, help="At the rate of the latencies.")] = 25.0,
    rounds: Annotated[
        int, typer.Option(min=1, help="All in turn, so many times; medians count.")
    ] = 1,
    file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Other engines on the same work, checked for equal changes (half an hour a round)."""
    console = Console()
    console.width = max(console.width, 96)  # of the tables
    names = tuple(only.split(","))
    if unknown := sorted(set(names) - MAKERS.keys()):
        known = ", ".join(MAKERS)
        raise typer.BadParameter(f"no such peer: {', '.join(unknown)}; there are: {known}")
    if sys.platform != "linux":
        console.print("CPU time of other processes is read from /proc: this needs Linux.")
        raise typer.Exit(1)
    plan = measure.Plan(_traffics(zipf), names, events, customers, seconds, rounds)

    def keep(found: dict[str, Any]) -> None:
        if file is not None:  # after each peer: a run takes long
            found["targets"] = list(peers_report.verdicts(found["results"]))
            file.write_text(json.dumps(found, indent=2) + "\n")

    found = measure.run(plan, tell, keep)
    peers_report.show(console, found)
    if any("failed" in result for result in found["results"]):
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
