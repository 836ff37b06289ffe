"""`python -m benchmarks.quality`: how good the segments are. Writes docs/quality.md; minutes."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.quality import report, sources
from benchmarks.quality.course import DataSet
from benchmarks.quality.measure import Measured, measure
from benchmarks.quality.play import Unusable
from segstream.core.check import ConfigError
from segstream.core.mapping import MappingError
from segstream.shell.files import FileError

ROOT = Path(__file__).parents[2]
QUICK_DAYS = 120
app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path | None, typer.Option(help="Calls, or a table with --mapping.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="How the rows become calls.")] = None,
    truth: Annotated[Path | None, typer.Option(help="CSV: customer, since, label.")] = None,
    config: Annotated[Path | None, typer.Option(help="segstream.toml for --data.")] = None,
    k: Annotated[int | None, typer.Option(help="Segments; else the data set's own.")] = None,
    only: Annotated[str, typer.Option(help="Of the standard runs: shop-1,retail-year")] = "",
    days: Annotated[int | None, typer.Option(help="At most so many, of each.")] = None,
    quick: Annotated[bool, typer.Option(help=f"{QUICK_DAYS} days: does it hold?")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for quality.md and the rest.")] = None,
) -> None:
    """Play streams through core and trainer, and hold the segments against a nightly batch.

    The standard runs are written to docs/, everything else to build/quality/ unless told otherwise.
    """
    tell = Console(stderr=True, style="dim").print
    found: list[tuple[DataSet, Measured]] = []
    try:
        if data is None:
            chosen = [d for d in sources.standard(k) if not only or d.name in only.split(",")]
        else:
            chosen = [sources.of_file(data, mapping=mapping, truth=truth, config=config, k=k)]
        for one in chosen:
            began = time.monotonic()
            limit = QUICK_DAYS if quick else days
            measured = measure(one, days=limit, tell=lambda text: tell(text, markup=False))
            tell(f"{one.name}: {time.monotonic() - began:.0f} s", markup=False)
            found.append((one, measured))
    except (ConfigError, FileError, MappingError, OSError, Unusable) as error:
        raise SystemExit(f"quality: {error}") from None
    command = "make quality" if data is None else f"make quality DATA={data.name}"
    command += f' ARGS="--only {only}"' if only else ""
    # Only the standard runs, whole, are published.
    part = data or only or k or days or quick
    out = out or (ROOT / "build" / "quality" if part else ROOT / "docs")
    report.write(found, out, command, {"days": days, "quick": quick, "k": k, "only": only})
    lines = report.missed(found)
    Console().print(
        "\n".join(["Misses its target:", *lines] if lines else ["All targets are met."])
    )
    Console().print(f"All figures: {out / 'quality.md'}", markup=False)


if __name__ == "__main__":
    sys.exit(app())
