"""What the commands share: where they write, and how Kafka lets them in."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from consumers import settings as settings_

# Without a terminal nobody measures columns; lines then stay whole.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def let_in() -> settings_.Settings:
    """The settings in force, once Kafka has let us in: it says why not only when it is asked."""
    from segstream.shell import access  # noqa: PLC0415

    settings = settings_.load()
    access.enter(settings.kafka)
    return settings
