"""What the commands in docs/sizing.md print, and its table of shards."""

import io
import os
import shlex
from unittest.mock import patch

from rich.console import Console

import consumers.size
from consumers.cli import app
from segstream.core.slots import equal_ranges, shares


def printed(command: str) -> str:
    """What a command of segstream prints in a terminal of 110 columns, with default settings."""
    said = io.StringIO()
    console = Console(width=110, file=said)
    with patch.object(consumers.size, "out", console), patch.dict(os.environ, clear=True):
        app(shlex.split(command)[1:], standalone_mode=False)
    lines = said.getvalue().rstrip().splitlines()
    return "\n".join(line.rstrip() for line in lines)


def shards_table() -> str:
    """Partitions of the emptiest and the fullest shard, with equal ranges of slots."""
    numbers = (3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
    rows = []
    for partitions in (4, 16, 64, 100, 128, 256, 512, 1_024):
        cells = []
        for number in numbers:
            counts = shares(partitions, equal_ranges(number))
            few, many = min(counts), max(counts)
            cells.append(f"{few}–{many}" if few else f"**0**–{many}")
        rows.append(f"| {partitions:,} | {' | '.join(cells)} |")
    head = f"| partitions | {' | '.join(f'{number} shards' for number in numbers)} |"
    return "\n".join([head, "|---:" * (len(numbers) + 1) + "|", *rows])
