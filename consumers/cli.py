"""The `segstream` command. Exit codes: 0 done, 1 error while running, 2 wrong usage or settings."""

import json
import logging
import threading
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from redis import RedisError
from redis.exceptions import RedisClusterException
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from consumers import mend, segments, size
from consumers import settings as settings_
from consumers import simulate as simulate_
from consumers.setup import local, plan_of, target_of
from consumers.stop import stopping, stopping_within
from consumers.terminal import Json, err, let_in, out
from segstream.core.check import ConfigError
from segstream.core.mapping import MappingError
from segstream.ports import Refused, Unavailable
from segstream.shell.files import FileError
from segstream.shell.local import LocalUnavailable
from segstream.shell.replay import ReplayError

app = typer.Typer(
    help="Customer events in, segment changes out: each one exactly once, with a reason.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="The topics in Kafka.", no_args_is_help=True)
config_app = typer.Typer(help="The settings in force.", no_args_is_help=True)
app.add_typer(mend.app)
app.add_typer(size.app)
app.add_typer(segments.app, name="segments")
app.add_typer(topics_app, name="topics")
app.add_typer(config_app, name="config")


class Process(StrEnum):
    """What `segstream run` can run."""

    segmenter = "segmenter"
    trainer = "trainer"


def main() -> None:
    """Run the command; errors for people on stderr."""
    try:
        # typer.Exit does not come out of here: its code is returned.
        code = app(standalone_mode=False)
    except typer.Abort:
        raise SystemExit(130) from None
    except ConfigError as error:
        err.print(f"[red]The settings have {len(error.mistakes)} mistake(s):[/red]")
        for mistake in error.mistakes:
            err.print(f"  {mistake}", markup=False)
        raise SystemExit(2) from None
    except MappingError as error:
        err.print(str(error), markup=False)
        raise SystemExit(2) from None
    except Exception as error:  # noqa: BLE001 (raised again unless it is known)
        _explain(error)
    else:
        raise SystemExit(code)


def _explain(error: Exception) -> None:
    usage = getattr(error, "exit_code", None)
    if usage is not None and hasattr(error, "show"):  # click's usage errors
        error.show()
        raise SystemExit(2)
    known = (Refused, Unavailable, LocalUnavailable, ReplayError, FileError)
    if isinstance(error, KafkaException):
        err.print(f"Kafka: {error.args[0].str()}", style="red", markup=False)
        raise SystemExit(1)
    if isinstance(error, RedisError | RedisClusterException):
        from segstream.shell.redis_client import failure  # noqa: PLC0415

        error = failure(error)
    if isinstance(error, known):
        err.print(str(error), style="red", markup=False)
        raise SystemExit(1)
    raise error


def _logging() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_path=False, markup=False)],
    )


# -- running --------------------------------------------------------------------------


@app.command()
def demo(as_json: Json = False) -> None:
    """Play a real year of a shop through real servers, started here for the purpose."""
    from consumers import demo as demo_  # noqa: PLC0415 (the trainer's libraries load slowly)

    settings = settings_.load({})
    with stopping() as stop:
        try:
            figures, model = demo_.demo(settings, err if as_json else out, stop, as_json=as_json)
        except demo_.Interrupted:
            err.print("stopped")
            raise typer.Exit(130) from None
    if as_json:
        print(json.dumps(figures))  # noqa: T201
    else:
        out.print(demo_.summary(figures, model))


@app.command()
def up(
    directory: Annotated[Path, typer.Option(help="Where the servers keep their data.")] = Path(
        ".segstream"
    ),
    segmenters: Annotated[int, typer.Option(min=1, help="How many segmenter processes.")] = 2,
) -> None:
    """Local servers and all processes in this terminal, until Ctrl-C."""
    from consumers.processes import environment_of, processes  # noqa: PLC0415
    from segstream.shell.topics import create  # noqa: PLC0415

    def tell(text: str) -> None:
        if stop():  # between any two steps of the start
            raise typer.Exit(130)
        err.print(text, style="dim", markup=False)

    settings = settings_.load()
    with stopping() as stop, local(settings, directory, tell) as here:
        for line in create(here.kafka, plan_of(here)):
            tell(line)
        environment = environment_of(here)
        logs = directory.absolute() / "processes"
        with processes(logs, environment, segmenters, tell) as running:
            out.print("segstream is up. In another terminal:\n")
            for name in ("SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS", "SEGSTREAM_REDIS_URL"):
                out.print(f"  export {name}={environment[name]}", markup=False)
            out.print("  segstream watch\n\nCtrl-C stops everything; the data stay.")
            while not stop():
                running.supervise()
                threading.Event().wait(0.2)


@app.command()
def run(
    process: Annotated[Process, typer.Argument(help="Which one.")],
    slot: Annotated[
        str | None, typer.Option(help="Stable name of this worker; default: the host name.")
    ] = None,
) -> None:
    """One process, for production."""
    settings = settings_.load()
    if slot is not None:
        settings = settings.model_copy(update={"slot": slot})
    _logging()
    with stopping_within(settings.grace_seconds) as stop:
        if process is Process.segmenter:
            from consumers import segmenter  # noqa: PLC0415

            segmenter.run(settings, stop)
        else:
            from consumers import trainer  # noqa: PLC0415

            trainer.run(settings, stop)


@app.command()
def replay(
    file: Annotated[Path, typer.Argument(help="JSON Lines, CSV or Parquet; also .gz and .xz.")],
    mapping: Annotated[
        Path | None, typer.Option(help="How the rows of a table become calls (TOML).")
    ] = None,
    as_lived: Annotated[
        bool, typer.Option(help="Play the time between the events too, day by day.")
    ] = False,
) -> None:
    """Send a file's events; run again after a stop, it goes on where it was."""
    from segstream.shell import files  # noqa: PLC0415
    from segstream.shell.replay import replay as send  # noqa: PLC0415

    settings = let_in()
    rows = None if mapping is None else files.load_mapping(mapping)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with stopping() as stop, Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("sending", total=files.count(file, rows))
        summary = send(
            files.calls(file, rows),
            files.digest(file, rows),
            target_of(settings),
            as_lived=as_lived,
            progress=lambda lines, _: shown.update(task, completed=lines),
            stop=stop,
        )
    out.print(
        f"{summary.sent:,} sent, {summary.skipped:,} were there already "
        f"({summary.seconds:.1f} s)"
        + (", stopped: run it again to go on" if summary.stopped else "")
    )
    if summary.stopped:
        raise typer.Exit(130)


@app.command()
def simulate(
    file: Annotated[
        Path | None,
        typer.Argument(help="A .jsonl or .jsonl.gz to write, - for stdout; without one: Kafka."),
    ] = None,
    customers: Annotated[int, typer.Option(min=1, help="How many sign up by and by.")] = 2_000,
    days: Annotated[int, typer.Option(min=1, help="How many days are played.")] = 540,
    seed: Annotated[int, typer.Option(min=0, help="Another number is another shop.")] = 0,
    start: Annotated[str, typer.Option(help="The first day.")] = "2024-01-01",
    rate: Annotated[
        int | None, typer.Option(min=1, help="At most so many events a second; default: no limit.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="A .csv to write: who was of which persona since when.")
    ] = None,
    without: Annotated[
        list[simulate_.Part] | None,
        typer.Option(help="Leave this out; may be given more than once."),
    ] = None,
    as_lived: Annotated[
        bool, typer.Option(help="Into Kafka: play the time between the events too, day by day.")
    ] = False,
) -> None:
    """Make up a shop's events, with known kinds of customers; the same options, the same events.

    Into Kafka: run again after a stop, it goes on where it was. A file is replaced. See
    docs/simulate.md.
    """
    if file is not None and (as_lived or not simulate_.is_writable(file)):
        raise typer.BadParameter(
            "--as-lived goes into Kafka" if as_lived else f"{file}: .jsonl, .jsonl.gz or - expected"
        )
    try:
        shop = simulate_.shop_of(customers, days, seed, start, without or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    where = target_of(let_in()) if file is None else file
    if truth is not None:
        simulate_.write_truth(shop, truth)
    columns = (TextColumn("days"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with stopping() as stop, Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("", total=days)
        run = simulate_.Run(shop, rate, lambda days: shown.update(task, completed=days), stop)
        done = run.into(where, as_lived=as_lived)
    err.print(done.text, markup=False)
    if done.stopped:
        raise typer.Exit(130)


# -- looking --------------------------------------------------------------------------


@app.command()
def inspect(customer: str, as_json: Json = False) -> None:
    """One customer: windows, vector, segment, since when, why, how far the next one is."""
    from consumers import look  # noqa: PLC0415

    with stopping() as stop:
        look.inspect(let_in(), out, customer, stop, as_json)


@app.command()
def watch(
    beginning: Annotated[bool, typer.Option(help="From the first change that is kept.")] = False,
    as_json: Json = False,
) -> None:
    """Follow the changes as they are committed."""
    from consumers import look  # noqa: PLC0415

    with stopping() as stop:
        look.watch(let_in(), out, stop, beginning=beginning, raw=as_json)


@app.command()
def events(customer: str) -> None:
    """What the log holds about a customer."""
    from consumers import look  # noqa: PLC0415

    with stopping() as stop:
        look.events(let_in(), out, customer, stop)


# -- topics and settings --------------------------------------------------------------


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing, and the published positions."""
    from segstream.shell import topics  # noqa: PLC0415

    settings = let_in()
    for line in topics.create(settings.kafka, plan_of(settings)) or ["nothing was missing"]:
        out.print(line)


@topics_app.command("check")
def topics_check() -> None:
    """Compare the topics with the contract; exit code 1 if anything differs."""
    from segstream.shell import topics  # noqa: PLC0415

    settings = let_in()
    found = topics.check(settings.kafka, plan_of(settings))
    for line in found or ["all topics are as they should be"]:
        out.print(line, markup=False)
    if found:
        raise typer.Exit(1)


@config_app.command("check")
def config_check() -> None:
    """Name every mistake in the settings; exit code 2 if there is any."""
    settings = settings_.load()
    columns = settings.definition.columns()
    out.print(f"the settings are fine: {len(columns)} features ({', '.join(columns)})")


@config_app.command("show")
def config_show() -> None:
    """All settings in force, secrets masked, as JSON."""
    settings = settings_.load()
    out.print_json(json.dumps({**settings.shown(), "layout": settings.layout}))
