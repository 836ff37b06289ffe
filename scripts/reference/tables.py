"""The alerts in docs/operations.md, and the rights in docs/security.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from segstream.shell.access import CONNECTING, OF_CLUSTER
from segstream.shell.contract import rights


def alerts_table(rules: Path) -> str:
    """The part of docs/operations.md that shows alerts.yml."""
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    rows = []
    for rule in group["rules"]:
        condition = f"`{rule['expr']}`".replace("|", "\\|")
        words = rule["annotations"]
        rows.append(
            f"| {rule['alert'].removeprefix('Segstream')} | {condition} | {rule.get('for', '–')} "
            f"| {words['summary']}. {words['action']} |"
        )
    return "\n".join(["| alert | expression | for | means |", "|---|---|---|---|", *rows])


def rights_table() -> str:
    """The part of docs/security.md that shows schemas/rights.toml."""

    def words(names: Mapping[str, Sequence[str]]) -> str:
        found = [f"`{name}`: {', '.join(operations)}" for name, operations in names.items()]
        return "<br>".join(found) or "–"

    rows = [
        f"| `{name}` | {needed.about} | {words(needed.topics)} | {words(needed.groups)} "
        f"| {words(needed.transactional_ids)} "
        f"| {', '.join(f'`{command}`' for command in needed.redis) or '–'} |"
        for name, needed in rights().items()
    ]
    head = "| process | is | topics | groups | transactional ids | Redis |"
    always, cluster = (
        ", ".join(f"`{command}`" for command in more) for more in (CONNECTING, OF_CLUSTER)
    )
    besides = f"Every user of Redis besides: {always}; in a cluster also {cluster}."
    return "\n".join([head, "|---" * 6 + "|", *rows, "", besides])
