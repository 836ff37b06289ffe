"""Commands that check and mend: audit, restore, redrive, rights."""

import json
import sys
from typing import Annotated

import typer

from consumers import settings as settings_
from consumers.stop import stopping
from consumers.terminal import Json, err, let_in, out

app = typer.Typer()


@app.command()
def audit(
    customers: Annotated[
        int, typer.Option(min=1, max=100_000, help="How many States and memberships, about.")
    ] = 1_000,
    customer: Annotated[
        list[str] | None, typer.Option(help="Only this customer; may be given more than once.")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only this partition; may be given more than once.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Chooses the customers; default: others each time.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Name customers by their ids, not their hashes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compute partitions again from the log, and compare Redis and the topics with that.

    All changes are compared, and the States and memberships of a sample of customers. Segmenters
    may go on meanwhile. Needs memory for the States of one partition. Exit code 1 if anything
    differs; 3 if nothing does, but a log does not reach back to its beginning.
    """
    from consumers import audit as audit_  # noqa: PLC0415

    settings = let_in()
    try:
        wanted = audit_.wanted_of(
            settings, customers, customer or [], partition or [], seed, plain=plain
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    run = audit_.Audit(settings, wanted)
    run.run(err)
    if as_json:
        audit_.show_json(run.figures())
    else:
        run.show(out)
    raise typer.Exit(run.code)


@app.command()
def restore(
    approximate: Annotated[
        bool,
        typer.Option("--approximate", help="Start partitions anew whose log is too short."),
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Set W to N where W is lost.")
    ] = False,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only this partition; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Show where partitions stand after a loss, and what a segmenter would do.

    Changes nothing without --approximate or --published, and asks before. Both need all segmenters
    of the namespace to be stopped. Exit code 1 if a segmenter would refuse a partition.
    """
    from consumers import restore as restore_  # noqa: PLC0415

    if approximate and published:
        raise typer.BadParameter("W comes first: --published, then look again")
    if (approximate or published) and not (yes or sys.stdin.isatty()):
        why = "without a terminal nobody can be asked; add it, or look without either option"
        raise typer.BadParameter(why, param_hint="--yes")
    run = restore_.Restore(settings_.load(), partition or [])
    if not as_json:
        run.show(out)
    if approximate or published:
        run.help(approximate=approximate, ask=None if yes else typer.confirm, console=err)
    if as_json:
        restore_.show_json(run.figures())
    elif run.done:
        run.show(out)
    raise typer.Exit(0 if run.fine else 1)


@app.command()
def redrive(
    reason: Annotated[
        list[str] | None, typer.Option(help="Only letters with this reason; may be repeated.")
    ] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Only letters of this partition; may be repeated.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only records appended since: 2026-11-23T06:00:00Z, or 2h (ago)."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only records appended before.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many, the oldest.")] = None,
    rate: Annotated[int, typer.Option(min=1, help="At most so many records a second.")] = 1_000,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was sent before, once more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Send dead letters into `customer-events` again, once their cause is mended."""
    from consumers import redrive as redrive_  # noqa: PLC0415

    settings = let_in()
    try:
        wanted = redrive_.wanted(settings, reason, partition, since, until)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not (dry_run or yes or sys.stdin.isatty()):
        why = "without a terminal nobody can be asked; add it, or only look with --dry-run"
        raise typer.BadParameter(why, param_hint="--yes")
    run = redrive_.Redrive(settings, sends=not dry_run)
    with stopping() as stop:
        run.look(wanted, again=again, limit=limit, stop=stop)
        if stop():
            raise typer.Exit(130)
    if not as_json:
        run.show(out)
    if not dry_run and run.number and (yes or typer.confirm(run.question(rate), err=True)):
        with stopping() as stop:
            run.send(rate, err, stop)
    if as_json:
        print(json.dumps(run.figures()))  # noqa: T201
    else:
        out.print(run.summary())
    if run.stopped:
        raise typer.Exit(130)


@app.command("rights")
def rights_(
    process: Annotated[str, typer.Argument(help="A row of the table in docs/security.md.")],
    user: Annotated[
        str | None, typer.Option(help="Name of the user in Kafka and Redis; default: the process.")
    ] = None,
) -> None:
    """Print the commands that let a user do what a process needs, and nothing more."""
    from segstream.shell import access  # noqa: PLC0415
    from segstream.shell.contract import rights  # noqa: PLC0415
    from segstream.shell.redis_client import is_cluster  # noqa: PLC0415

    settings = settings_.load()
    if process not in rights():
        raise typer.BadParameter(f"there is no {process!r}; there are: {', '.join(rights())}")
    place = str(settings.kafka["bootstrap.servers"])
    names = (settings.topics.prefix, settings.namespace)
    cluster = is_cluster(settings.redis.url)
    for line in access.commands(process, user or process, *names, place, cluster=cluster):
        print(line)  # noqa: T201 (whole, however narrow the terminal)
