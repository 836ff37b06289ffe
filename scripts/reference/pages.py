"""Every generated page: whole ones, and parts between two marks in pages that people write."""

import re
from pathlib import Path

from scripts.reference.commands import cli_page
from scripts.reference.layout import layout_section
from scripts.reference.settings import settings_page
from scripts.reference.sizing import printed, shards_table
from scripts.reference.tables import alerts_table, rights_table
from segstream.shell.metrics import markdown

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/personalize.py"


def pages() -> dict[str, str]:
    """The text of each generated file, by its path."""
    redis, readme, operations = "schemas/redis-state.md", "README.md", "docs/operations.md"
    example = f"```python\n{(ROOT / EXAMPLE).read_text().rstrip()}\n```"
    alerts = alerts_table(ROOT / "alerts.yml")
    security, sizing = "docs/security.md", "docs/sizing.md"
    found = {
        "docs/metrics.md": markdown(),
        "docs/settings.md": settings_page(),
        "docs/cli.md": cli_page(),
        redis: between((ROOT / redis).read_text(), "byte layout", layout_section()),
        operations: between((ROOT / operations).read_text(), "alerts", alerts),
        security: between((ROOT / security).read_text(), "rights", rights_table()),
        sizing: sizing_page((ROOT / sizing).read_text()),
        readme: between((ROOT / readme).read_text(), EXAMPLE, example),
    }
    return {path: text.rstrip() + "\n" for path, text in found.items()}


def between(text: str, mark: str, part: str) -> str:
    """The text with another part between `<!-- mark: begin -->` and `<!-- mark: end -->`."""
    begin, end = (f"<!-- {mark}: {side} -->" for side in ("begin", "end"))
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    found, times = pattern.subn(lambda _: f"{begin}\n{part}\n{end}", text)
    assert times == 1, f"{mark} is there {times} times"
    return found


def sizing_page(text: str) -> str:
    """docs/sizing.md with what its commands print, and with the table of shards."""
    for mark in re.findall(r"<!-- (segstream size .*): begin -->", text):
        text = between(text, mark, f"```text\n{printed(mark)}\n```")
    return between(text, "shards", shards_table())
