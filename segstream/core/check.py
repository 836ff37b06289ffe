"""Checks a declared Definition, and says everything that is wrong with it at once."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from segstream.core import expression
from segstream.core.config import DAY, Definition
from segstream.core.expression import MINUTE, Window


class Mistake(NamedTuple):
    """One thing wrong in a configuration: where, what stands there, what would be right."""

    path: tuple[str | int, ...]
    value: object
    text: str

    def __str__(self) -> str:
        shown = repr(self.value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return f"{'.'.join(map(str, self.path))} = {shown}: {self.text}"


class ConfigError(ValueError):
    """A configuration that cannot be used; carries every mistake found in it."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


def define(data: dict[str, Any]) -> Definition:
    """The Definition declared by a parsed TOML table; ConfigError names all mistakes at once."""
    mistakes, pruned = [], set[str]()
    try:
        definition = Definition.model_validate(data)
    except ValidationError as error:
        mistakes = mistakes_of(error)
        pruned = {str(m.path[1]) for m in mistakes if len(m.path) > 1}
        try:  # what is left may have more mistakes, and all of them are wanted at once
            definition = Definition.model_validate(_without(data, mistakes))
        except ValidationError:
            raise ConfigError(mistakes) from None
    mistakes += _inconsistencies(definition, pruned)
    if mistakes:
        raise ConfigError(mistakes)
    return definition


def mistakes_of(error: ValidationError) -> list[Mistake]:
    """pydantic's findings in our words."""
    return [
        Mistake(e["loc"], e["input"], e["msg"].removeprefix("Value error, "))
        for e in error.errors(include_url=False)
    ]


def _without(data: dict[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    left = {k: dict(v) if isinstance(v, dict) else v for k, v in data.items()}
    for mistake in mistakes:
        section, *rest = mistake.path
        if rest and isinstance(left.get(str(section)), dict):
            left[str(section)].pop(rest[0], None)
        else:
            left.pop(str(section), None)
    return left


def _inconsistencies(definition: Definition, pruned: set[str]) -> list[Mistake]:
    return [
        *_periods(definition),
        *_rateless(definition),
        *_clashes(definition),
        *_expressions(definition, pruned),
        *_windowless(definition, pruned),
    ]


def _periods(definition: Definition) -> Iterator[Mistake]:
    minutes = expression.parse_duration(definition.tick.period) / MINUTE
    if minutes != int(minutes) or 1_440 % minutes:
        text = "must divide a day into whole minutes, such as 1d, 6h or 30m"
        yield Mistake(("tick", "period"), definition.tick.period, text)
    if DAY % definition.pane.ms or definition.pane.ms < MINUTE:
        text = "must divide a day, such as 1d, 1h or 5m"
        yield Mistake(("pane", "length"), definition.pane.length, text)
    rule = definition.hysteresis
    if rule.clear > rule.held:
        text = f"must not be above hysteresis.held = {rule.held}"
        yield Mistake(("hysteresis", "clear"), rule.clear, text)


def _rateless(definition: Definition) -> Iterator[Mistake]:
    for name, measure in definition.measures.items():
        if measure.money and definition.money is None:
            yield Mistake(("measures", name, "money"), True, "needs a [money] table with base")


def _clashes(definition: Definition) -> Iterator[Mistake]:
    for name, trait in definition.traits.items():
        if trait.in_model and trait.kind != "choice" and name in definition.features:
            text = "has in_model = true and is a feature already; give one another name"
            yield Mistake(("traits", name), name, text)
        if name in definition.measures:
            yield Mistake(("traits", name), name, "is also a measure; give one another name")
    readers: dict[str, tuple[str, bool]] = {}
    for kind, name, path, number in definition.readers():
        other, same = readers.setdefault(path, (f"{kind}.{name}", number))
        if same is not number:
            text = f"is read as a number and as text; {other} reads it the other way"
            yield Mistake((kind, name, "field"), path, text)
    for kind, name, path, _ in definition.readers():
        for outer, (other, _) in readers.items():
            if path.startswith(f"{outer}."):
                text = f"lies within {outer}, which {other} reads as a value"
                yield Mistake((kind, name, "field"), path, text)


def _expressions(definition: Definition, pruned: set[str]) -> Iterator[Mistake]:
    for name, feature in definition.features.items():
        try:
            for term in expression.terms(expression.parse(feature.expression)):
                if expression.named(term) not in pruned:
                    definition.check_term(term)
        except ValueError as error:
            yield Mistake(("features", name, "expression"), feature.expression, str(error))


def _windowless(definition: Definition, pruned: set[str]) -> Iterator[Mistake]:
    """The longest window says what is late and when a silent customer is forgotten."""
    if not pruned and not any(_windows(f.expression) for f in definition.features.values()):
        text = "at least one feature needs a window, such as orders[90d]"
        yield Mistake(("features",), list(definition.features), text)


def _windows(text: str) -> list[Window]:
    try:
        found = list(expression.terms(expression.parse(text)))
    except ValueError:  # named by _expressions
        return [Window("", 0)]
    return [term for term in found if isinstance(term, Window)]
