"""docs/settings.md. Words come from the descriptions in the models, or else from MEANINGS."""

import inspect
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from consumers.settings import VARIABLES, Settings, presets
from scripts.reference import GENERATED
from segstream.core import config
from segstream.core.check import define
from segstream.core.config import Definition, Feature, Measure, Money, Trait

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
