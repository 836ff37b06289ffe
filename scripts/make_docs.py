"""Write the reference pages that follow from the code: `python scripts/make_docs.py`.

docs/metrics.md, docs/settings.md, docs/cli.md; each between two marks: the byte layout in
schemas/redis-state.md, the alerts in docs/operations.md, the rights in docs/security.md, what is
printed in docs/sizing.md, and the example in README.md.
Words come from the descriptions in the models; what has none there is described in MEANINGS.
"""

import inspect
import io
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

import numpy as np
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console
from typer import Context
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

import consumers.size
from consumers.cli import app
from consumers.settings import VARIABLES, Settings, load, presets
from segstream.core import config
from segstream.core.check import define
from segstream.core.config import Definition, Feature, Measure, Money, Trait
from segstream.core.slots import equal_ranges, shares
from segstream.core.step import Function
from segstream.core.window import Layout
from segstream.shell.access import CONNECTING, OF_CLUSTER
from segstream.shell.contract import rights
from segstream.shell.metrics import markdown

ROOT = Path(__file__).parents[1]
EXAMPLE = "examples/personalize.py"
GENERATED = "Generated from `{}` by `make docs`."

#: By key path; only where the model itself says nothing.
MEANINGS = {
    "tick.period": "how often a customer is evaluated without an event; must divide a day",
    "pane.length": "finest unit of the rolling windows; must divide a day",
    "hysteresis.clear": "move at once if d(new) ≤ clear × d(current)",
    "hysteresis.held": "move if d(new) ≤ held × d(current) for as long as `hold`",
    "hysteresis.hold": "see `held`",
    "hysteresis.first": "how long a newcomer is watched before it enters a segment",
    "money.base": "three letters, such as `EUR`",
    "money.field": "where the currency of an amount stands; missing there: the base currency",
    "measures.kind": "what is kept: see below",
    "measures.events": "names of `track` events that are counted",
    "measures.calls": "other calls that are counted",
    "measures.field": "where the value stands, such as `properties.total`; a count has none",
    "measures.values": "of a `distinct`: what may occur, at most 64",
    "measures.decimals": "of a `sum`: digits after the point that are kept",
    "traits.kind": "`ordinal` and `choice` are kept as the position in `values`",
    "traits.field": "where the value stands; default: `traits.<name>`",
    "traits.values": "of an `ordinal` or `choice`: the declared values, at most 64",
    "traits.weight": "of its coordinate in the distance",
    "features.expression": "see below",
    "features.transform": "`log1p` is ln(1 + max(x, 0)), for values with a long tail",
    "features.fill": "stands for a missing value; `median` is that of the panel",
    "features.weight": "of its coordinate in the distance",
}
OWN_WORDS = {"slot": "the host name"}

EXPRESSIONS = """\
## Expressions

A feature is a small expression over measures and traits, such as `spend[90d] / orders[90d]`.

| write | value |
|---|---|
| `m[90d]` | count, sum or number of distinct values of measure `m` in the last 90 days; a whole number of panes, at most 1,000 |
| `recency(m)` | days since the latest event of `m`; missing if there was none |
| `m`, `t` | the kept value of a `last` measure or a trait; missing if there is none |
| `is_(t, 'gold')` | 1 if trait `t` has this declared value, 0 if another, missing if none |
| `+ - * /`, parentheses, numbers | arithmetic in float64; x/0 is missing, and so is anything with a missing part |
| `min(a, b)`, `max(a, b)`, `log1p(a)` | as their names say |

At least one feature must have a window: the longest one decides when an event is too late to
count, and when a silent customer is forgotten (after twice as long).
"""  # noqa: E501 (a table row is one line)

KINDS = """\
| kind | keeps | needs |
|---|---|---|
| `count` | +1 per event, per pane up to 65,535 | – |
| `sum` | a number from 0 to 10⁹, as an integer × 10^`decimals`, per pane up to 4,294,967,295 | `field` |
| `distinct` | which of the declared `values` occurred, per pane | `field`, `values` |
| `last` | the number with the latest time, ±10¹², without a window | `field` |

A `sum` adds numbers as they are, unless it says `money = true`: then they are amounts in the
currencies of `[money]`. What a full pane cannot hold is cut off and counted
(`segstream_values_saturated_total`).
"""  # noqa: E501

KAFKA = """\
`[kafka]` takes every property of librdkafka, dotted (`sasl.mechanism`) or nested. As a variable,
dots become underscores: `SEGSTREAM_KAFKA_SASL_PASSWORD` is `sasl.password`. What segstream sets
itself, because a guarantee hangs on it, is refused there.

```toml
[kafka]
bootstrap.servers = "kafka-1:9093,kafka-2:9093,kafka-3:9093"
security.protocol = "SASL_SSL"
sasl.mechanism = "SCRAM-SHA-512"
sasl.username = "segstream"
```

Passwords and keys must not stand in the file: they come from variables, or from files that the same
variable with `_FILE` at its end names, such as `SEGSTREAM_KAFKA_SASL_PASSWORD_FILE` and
`SEGSTREAM_REDIS_PASSWORD_FILE` ([security](security.md#secrets)).
"""
DEFINITION = """\
These settings are the **Definition**. All of them enter the layout digest, apart from how the
trainer prepares a feature (transform, clip, fill, weight, words). States that were computed under
another digest are refused: see [operations](operations.md#changing-the-definition).

Names in `measures`, `traits` and `features` are lower case letters, digits and `_`. A table of your
own is added, name by name, to that of the preset; if you declare `measures` without naming a
`preset`, there is none.
"""
MONEY = """\
```toml
[money]
base = "EUR"
[money.rates.2026-01-01]
USD = 0.85
GBP = 1.15
```

A table of rates holds from its date (UTC) on, the first one also for the time before it. An amount
in a currency without a rate is a dead letter (`currency`).
"""


# -- settings -------------------------------------------------------------------------


def settings_page() -> str:
    """docs/settings.md."""
    return "\n".join(
        [
            "# Settings",
            "",
            GENERATED.format("consumers/settings.py` and `segstream/core/config.py"),
            "",
            "Settings come from the file that `SEGSTREAM_CONFIG` names (TOML); environment",
            "variables win over it. `segstream config check` names every mistake at once,",
            "`segstream config show` prints what is in force, secrets masked.",
            "",
            "## Where and how it runs",
            "",
            *_table(Settings, "", leave="definition", variables=True),
            "",
            KAFKA,
            "## What is computed",
            "",
            DEFINITION,
            *_definition(),
            "",
            EXPRESSIONS,
            "## Presets",
            "",
            *(line for name in presets() for line in _preset(name)),
        ]
    )


def _definition() -> Iterator[str]:
    """One table for the single values, and one each for measures, traits and features."""
    sections = {n: f for n, f in Definition.model_fields.items() if _model_of(f) is not None}
    yield from _head(variables=False)
    for name, field in sections.items():
        yield from _rows(_model_of(field), f"{name}.", variables=False)
    for title, model, note in (
        ("measures", Measure, KINDS),
        ("traits", Trait, ""),
        ("features", Feature, ""),
        ("money", Money, MONEY),
    ):
        heading = title if model is Money else f"{title}.<name>"
        yield from ["", f"### `[{heading}]`", "", f"{_first_line(model)}", ""]
        yield from _head(variables=False)
        yield from _rows(model, f"{title}.", variables=False, shown="")
        yield from ["", note] if note else []


def _table(model: type[BaseModel], path: str, *, leave: str, variables: bool) -> Iterator[str]:
    yield from _head(variables=variables)
    yield from _rows(model, path, leave=leave, variables=variables)


def _head(*, variables: bool) -> list[str]:
    columns = ["key", *(["environment"] if variables else []), "type", "default", "meaning"]
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def _rows(
    model: type[BaseModel] | None,
    path: str,
    *,
    variables: bool,
    leave: str = "",
    shown: str | None = None,
) -> Iterator[str]:
    """A row a field; models inside models are walked. `shown`: prefix of the key in the table."""
    assert model is not None
    for name, field in model.model_fields.items():
        if name == leave:
            continue
        inner = _model_of(field)
        if inner is not None:
            yield from _rows(inner, f"{path}{name}.", variables=variables)
            continue
        key = path + name
        cells = [f"`{(path if shown is None else shown) + name}`"]
        if variables:
            cells.append(_variable(key))
        cells += [_type_text(field), _default(key, field), field.description or MEANINGS[key]]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _variable(key: str) -> str:
    if key == "kafka":
        return "`SEGSTREAM_KAFKA_<NAME>`"
    found = [name for name, path in VARIABLES.items() if ".".join(path) == key]
    return f"`{found[0]}`" if found else "–"


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    kind: Any = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _type_text(field: FieldInfo) -> str:
    text = _annotation(field.annotation, field.metadata)
    bounds = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if getattr(mark, name, None) is not None
    ]
    return ", ".join([text, *bounds])


def _annotation(kind: Any, metadata: list[Any]) -> str:
    """A type in words."""
    if get_args(config.Duration)[1] in metadata:
        return "duration"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        known = [a for a in arguments if a is not NoneType]
        return " or ".join(dict.fromkeys(_annotation(a, []) for a in known))
    if hasattr(kind, "__metadata__"):  # Annotated inside a union or a list
        return _annotation(kind.__origin__, list(kind.__metadata__))
    if origin is dict:
        return "table"
    if origin is tuple and arguments[-1] is Ellipsis:
        return "list of " + _annotation(arguments[0], [])
    if origin is tuple:
        return "list of two numbers"
    return {str: "text", int: "integer", float: "number", bool: "boolean"}[kind]


def _default(key: str, field: FieldInfo) -> str:
    if key in OWN_WORDS:
        return OWN_WORDS[key]
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value in ((), "", {}):
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"`{name} = {text!r}`" for name, text in value.items())
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").splitlines()[0]


def _preset(name: str) -> Iterator[str]:
    """What a preset declares, in a table of its features."""
    text = (files("segstream.presets") / f"{name}.toml").read_text()
    definition = define(tomllib.loads(text))
    comment = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    yield from [f"### `{name}`", "", " ".join(comment), ""]
    yield from ["| feature | expression | transform | says low, high |", "|---|---|---|---|"]
    for feature, declared in definition.columns().items():
        words = (_word(declared.low, feature, "low"), _word(declared.high, feature, "high"))
        cells = (f"`{feature}`", f"`{declared.expression}`", declared.transform, ", ".join(words))
        yield f"| {' | '.join(cells)} |"
    measures = ", ".join(f"`{m}` ({d.kind})" for m, d in definition.measures.items())
    traits = ", ".join(f"`{t}` ({d.kind})" for t, d in definition.traits.items())
    yield from ["", f"Measures: {measures}." + (f" Traits: {traits}." if traits else ""), ""]


def _word(word: str | None, feature: str, side: str) -> str:
    return f"{side} {feature.replace('_', ' ')}" if word is None else word or "–"


# -- commands -------------------------------------------------------------------------


def commands() -> dict[str, CommandInfo]:
    """Every command by its full name, such as `topics create`."""
    found = {_name(command): command for command in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        alone = group.typer_instance.registered_callback
        if alone is not None and alone.invoke_without_command:
            found[str(group.name)] = CommandInfo(str(group.name), callback=alone.callback)
        for command in group.typer_instance.registered_commands:
            group_name = f"{group.name} " if isinstance(group.name, str) else ""  # mend.py has none
            found[group_name + _name(command)] = command
    return found


def parameters(command: CommandInfo) -> Iterator[tuple[str, Any, Any, str]]:
    """(how it is written, type, default, meaning); arguments are written in capitals."""
    assert command.callback is not None
    hints = get_type_hints(command.callback, include_extras=True)
    for name, parameter in inspect.signature(command.callback).parameters.items():
        hint = hints[name]
        if hint is Context:
            continue
        info = next(iter(getattr(hint, "__metadata__", ())), None)
        kind = hint.__origin__ if info is not None else hint
        if not isinstance(info, OptionInfo):
            meaning = info.help if isinstance(info, ArgumentInfo) and info.help else ""
            yield name.upper(), kind, parameter.default, meaning
            continue
        # `typer.Option("--json")` inside Annotated arrives as the default.
        given = info.default if isinstance(info.default, str) else None
        yield given or f"--{name.replace('_', '-')}", kind, parameter.default, info.help or ""


def cli_page() -> str:
    """docs/cli.md."""
    lines = [
        "# Commands",
        "",
        GENERATED.format("consumers/cli.py, mend.py, segments.py and size.py"),
        "",
        "Exit codes: 0 done, 1 an error while running, 2 wrong usage or settings, 130 stopped.",
        "Errors and progress go to stderr. Every command reads the [settings](settings.md).",
        "",
    ]
    for name, command in commands().items():
        found = list(parameters(command))
        words = [_used(p, kind, default) for p, kind, default, _ in found]
        if len(words) > 10:
            words = [word for word in words if not word.startswith("[")] + ["[…]"]
        usage = " ".join(words)
        lines += [f"## `segstream {name}{' ' * bool(usage)}{usage}`", ""]
        lines += [inspect.getdoc(command.callback) or "", ""]
        rows = [
            f"| `{p}` | {_kind(kind)} | {_given(default)} | {meaning or _bare(p)} |"
            for p, kind, default, meaning in found
        ]
        if rows:
            lines += ["| parameter | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def _used(parameter: str, kind: Any, default: Any) -> str:
    """As it is written in a usage line; in brackets what may be left out."""
    if default is inspect.Parameter.empty:
        return f"{parameter} …" if parameter.startswith("--") else parameter
    return f"[{parameter}]" if parameter.isupper() or kind is bool else f"[{parameter} …]"


def _bare(parameter: str) -> str:
    return {"CUSTOMER": "userId, or `a:` + anonymousId."}[parameter]


def _kind(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        kind = next(k for k in get_args(kind) if k is not NoneType)
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if hasattr(kind, "__members__"):
        return " or ".join(f"`{member}`" for member in kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    names = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}
    return names[kind]


def _given(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return "–" if default is None or default is False else f"`{default}`"


# -- bytes ----------------------------------------------------------------------------

FIELD_MEANINGS = {
    "layout": "layout id, see below",
    "accepted": "events accepted so far; its remainder by 16 is the next place in `ids`",
    "hash": "the customer's hash: BLAKE2b-64 of the id, big-endian value",
    "last": "greatest time of an accepted event, ms; −1 = none",
    "since": "clock when the current segment was entered, ms",
    "pending_since": "clock since which another segment has been nearer, ms; 0 = none",
    "segment": "current segment; 0 = none",
    "pending": "the other segment; 0 = none",
    "stamp": "version of the model that last agreed with `segment`",
    "sequence": "number of the last change",
    "pane": "pane (ms since 1970 div pane length) at which the rings stand",
    "ids": "XXH3-64 of the last 16 accepted message ids, a ring",
    "counts": "rings of `count` measures: {}",
    "sums": "rings of `sum` measures, in 10^−decimals: {}",
    "bits": "rings of `distinct` measures, bit i for the i-th value, 1 to 8 bytes: {}",
    "seen": "latest event time, ms, for `recency`; −1 = never: {}",
    "lasts": "values of `last` measures and traits: {}",
    "lasts_at": "times of `lasts`, ms; −1 = never",
}


def layout_section() -> str:
    """The part of schemas/redis-state.md that follows from `window.Layout` (preset retail)."""
    layout = Function(load({}).definition).layout
    names = {
        "counts": layout.counts,
        "sums": layout.sums,
        "bits": layout.bits,
        "seen": layout.recencies,
        "lasts": layout.lasts,
    }
    rows = [
        f"| {layout.dtype.fields[field][1]} | {_dtype_text(layout, field)} | `{field}` | "
        f"{FIELD_MEANINGS[field].format(', '.join(f'`{n}`' for n in names.get(field, [])))} |"
        for field in layout.dtype.names or ()
        if layout.dtype.fields is not None
    ]
    size = layout.dtype.itemsize
    others = [
        f"`{field}` ({meaning.partition(':')[0]})"
        for field, meaning in FIELD_MEANINGS.items()
        if field not in (layout.dtype.names or ())
    ]
    head = ["| offset | type | field | meaning |", "|---:|---|---|---|"]
    after = LAYOUT_AFTER.format(
        size=size, id=layout.id, rings=size - _head_size(layout), others=", ".join(others)
    )
    parts = [LAYOUT_TEXT.format(panes=layout.panes).strip(), "\n".join(head + rows), after.strip()]
    return "\n\n".join(parts)


LAYOUT_TEXT = """
## Bytes of a State

Generated from `segstream/core/window.py` by `make docs`, for the preset `retail`
(windows of {panes} panes of one day).

A State is packed without gaps, little-endian, and has the same size for every customer of a
configuration. The header (up to `ids`) is always the same; the fields behind it have one entry per
measure or trait that is kept, in the order of the configuration, and a field without entries is
absent. `u` is unsigned, `i` signed, `f` IEEE 754; the number is bytes.
"""
LAYOUT_AFTER = """
Together {size:,} bytes, {rings:,} of them behind the header. Other configurations also have, in
this order, {others}.

**Rings.** `pane mod length` is the slot of a pane. A ring that stands at pane P holds the panes
P − length + 1 … P; when it is moved on, the slots of the panes passed become 0. States are moved on
only when they are written, so a silent customer's ring stands where it was.

**Versions.** `layout` is the first four bytes, big-endian, of the SHA-256 of the field list
(`repr` of numpy's dtype description); here {id}. Bytes with another id or of another size are
refused: they were written under another configuration. What tells configurations apart is the
longer layout digest in `meta` and in the group offset, which also covers what the bytes mean.
"""


def _head_size(layout: Layout) -> int:
    assert layout.dtype.fields is not None
    return int(layout.dtype.fields["ids"][1]) + int(layout.dtype["ids"].itemsize)


def _dtype_text(layout: Layout, field: str) -> str:
    kind = layout.dtype[field]
    base, shape = kind.subdtype or (kind, ())
    return " × ".join([f"{np.dtype(base).kind}{np.dtype(base).itemsize}", *map(str, shape)])


def between(text: str, mark: str, part: str) -> str:
    """The text with another part between `<!-- mark: begin -->` and `<!-- mark: end -->`."""
    begin, end = (f"<!-- {mark}: {side} -->" for side in ("begin", "end"))
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    found, times = pattern.subn(lambda _: f"{begin}\n{part}\n{end}", text)
    assert times == 1, f"{mark} is there {times} times"
    return found


def alerts_table() -> str:
    """The part of docs/operations.md that shows alerts.yml."""
    (group,) = yaml.safe_load((ROOT / "alerts.yml").read_text())["groups"]
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


def sizing_page(text: str) -> str:
    """docs/sizing.md with what its commands print, and with the table of shards."""
    for mark in re.findall(r"<!-- (segstream size .*): begin -->", text):
        text = between(text, mark, f"```text\n{printed(mark)}\n```")
    return between(text, "shards", shards_table())


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


# -- all ------------------------------------------------------------------------------


def pages() -> dict[str, str]:
    """The text of each generated file, by its path."""
    redis, readme, operations = "schemas/redis-state.md", "README.md", "docs/operations.md"
    example = f"```python\n{(ROOT / EXAMPLE).read_text().rstrip()}\n```"
    security, sizing = "docs/security.md", "docs/sizing.md"
    found = {
        "docs/metrics.md": markdown(),
        "docs/settings.md": settings_page(),
        "docs/cli.md": cli_page(),
        redis: between((ROOT / redis).read_text(), "byte layout", layout_section()),
        operations: between((ROOT / operations).read_text(), "alerts", alerts_table()),
        security: between((ROOT / security).read_text(), "rights", rights_table()),
        sizing: sizing_page((ROOT / sizing).read_text()),
        readme: between((ROOT / readme).read_text(), EXAMPLE, example),
    }
    return {path: text.rstrip() + "\n" for path, text in found.items()}


def main() -> None:
    for path, text in pages().items():
        (ROOT / path).write_text(text)
        print(path)


if __name__ == "__main__":
    main()
