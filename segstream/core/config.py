"""The declared function: measures, traits, features and the numbers that decide.

Everything here enters the layout digest: two workers with equal definitions compute equal bytes.
"""

import hashlib
import json
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from segstream.core import expression
from segstream.core.expression import MINUTE, Is, Recency, Value, Window
from segstream.core.hash import Partitioner

#: Raise when the same log would give other bytes than before.
FOLD_VERSION = 3
DAY = 1_440 * MINUTE


def _check_duration(text: str) -> str:
    expression.parse_duration(text)
    return text


Duration = Annotated[str, AfterValidator(_check_duration)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Path = Annotated[
    str,
    StringConstraints(
        pattern=r"^(properties|traits|context)(\.[A-Za-z0-9_$ -]+){1,4}$",
        max_length=200,
    ),
]
Text = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Currency = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]
CallType = Literal["identify", "page", "screen", "group"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tick(Part):
    """How often a customer is evaluated without an event."""

    period: Duration = "1d"

    @property
    def minutes(self) -> int:
        return expression.parse_duration(self.period) // MINUTE


class Pane(Part):
    """Finest unit of the rolling windows."""

    length: Duration = "1d"

    @property
    def ms(self) -> int:
        return expression.parse_duration(self.length)


class Hysteresis(Part):
    """A move needs d(new) <= clear x d(current), or <= held x d(current) for as long as `hold`.

    Who has no segment yet enters the nearest one, not before `first` has passed since the first
    row under a model.
    """

    clear: float = Field(default=0.75, gt=0, le=1)
    held: float = Field(default=0.9, gt=0, le=1)
    hold: Duration = "5d"
    first: Duration | None = None

    @property
    def hold_ms(self) -> int:
        return expression.parse_duration(self.hold)

    @property
    def first_ms(self) -> int:
        """How long a newcomer is only watched; 0 = not at all."""
        return 0 if self.first is None else expression.parse_duration(self.first)


class PanelSize(Part):
    size: int = Field(
        default=20_000, ge=1, description="customers that are sampled for the trainer"
    )


class Money(Part):
    """Sums of money are kept in one base currency; `rates` say what a unit of another is worth.

    A table of rates holds from its date (UTC) on; the first one also for the time before it.
    """

    base: Currency
    field: Path = "properties.currency"
    rates: dict[date, dict[Currency, float]] = Field(
        default={}, description="date → currency → units of the base currency"
    )

    @property
    def currencies(self) -> list[str]:
        """The base currency, then the others."""
        return [self.base, *sorted(next(iter(self.rates.values()), {}))]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        named = {day: sorted(table) for day, table in self.rates.items()}
        for day, table in self.rates.items():
            if named[day] != self.currencies[1:]:
                raise ValueError("every table of rates must name the same currencies")
            if self.base in table or not all(0 < rate <= 1e6 for rate in table.values()):
                raise ValueError("rates are above 0, at most 1e6, and of other currencies")
        return self


class Measure(Part):
    """What is counted: which calls, and which value of theirs."""

    kind: Literal["count", "sum", "distinct", "last"]
    events: tuple[Text, ...] = ()
    calls: tuple[CallType, ...] = ()
    field: Path | None = None
    values: tuple[Text, ...] = Field(default=(), max_length=64)
    decimals: int = Field(default=2, ge=0, le=6)
    money: bool = Field(default=False, description="convert to the base currency of [money]")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.money and self.kind != "sum":
            raise ValueError("money = true belongs to kind sum")
        if not self.events and not self.calls:
            raise ValueError("names no calls; give events = [...] or calls = [...]")
        if (self.kind == "count") != (self.field is None):
            raise ValueError(
                "a count has no field" if self.kind == "count" else f"a {self.kind} needs a field"
            )
        if (self.kind == "distinct") != bool(self.values):
            raise ValueError("values = [...] belongs to kind distinct, and only there")
        return self


class Trait(Part):
    """A property of the person, from identify calls."""

    kind: Literal["number", "ordinal", "choice"]
    field: Path | None = None
    values: tuple[Text, ...] = Field(default=(), max_length=64)
    in_model: bool = Field(default=False, description="enters the distance between customers")
    weight: float = Field(default=1.0, gt=0, le=100)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.kind == "number") == bool(self.values):
            raise ValueError("values = [...] belongs to kinds ordinal and choice")
        return self


class Feature(Part):
    """One coordinate of the Vector, and how the trainer prepares it."""

    expression: Text
    transform: Literal["none", "log1p"] = "none"
    clip: tuple[float, float] = Field(default=(0.005, 0.995), description="quantiles of the panel")
    fill: Literal["median"] | float = "median"
    weight: float = Field(default=1.0, gt=0, le=100)
    low: str | None = Field(
        default=None, max_length=40, description="word for segments with little of it"
    )
    high: str | None = Field(
        default=None, max_length=40, description="word for segments with much of it"
    )


class Definition(Part):
    """All that decides, with the log, what comes out."""

    tick: Tick = Tick()
    pane: Pane = Pane()
    hysteresis: Hysteresis = Hysteresis()
    panel: PanelSize = PanelSize()
    money: Money | None = None
    measures: dict[Name, Measure] = Field(min_length=1)
    traits: dict[Name, Trait] = {}
    features: dict[Name, Feature] = Field(min_length=1)

    def readers(self) -> list[tuple[str, str, str, bool]]:
        """(section, name, path, is a number) of everything that reads a field."""
        found = [
            ("measures", name, measure.field, measure.kind in ("sum", "last"))
            for name, measure in self.measures.items()
            if measure.field is not None
        ]
        found += [
            ("traits", name, trait.field or f"traits.{name}", trait.kind == "number")
            for name, trait in self.traits.items()
        ]
        if self.money is not None:
            found.append(("money", "base", self.money.field, False))
        return found

    def check_term(self, term: expression.Term) -> None:
        """ValueError if the state cannot provide this term."""
        match term:
            case Window(name, length):
                kind = self._kind(name, self.measures, "measure")
                if kind == "last":
                    raise ValueError(f"{name} is a last value and has no window; write {name}")
                if length % self.pane.ms:
                    raise ValueError(f"a window is a whole number of panes of {self.pane.length}")
                if length // self.pane.ms > 1_000:
                    raise ValueError("a window has at most 1,000 panes; choose longer panes")
            case Recency(name):
                self._kind(name, self.measures, "measure")
            case Is(name, value):
                if value not in self.traits[self._named(name, self.traits, "trait")].values:
                    raise ValueError(f"{value!r} is not among the values of trait {name}")
            case Value(name):
                kind = self._kind(name, {**self.measures, **self.traits}, "measure or trait")
                if kind in ("count", "sum", "distinct"):
                    raise ValueError(f"{name} needs a window: {name}[90d]")

    def _kind(self, name: str, among: dict[str, Any], what: str) -> str:
        return str(among[self._named(name, among, what)].kind)

    @staticmethod
    def _named(name: str, among: dict[str, Any], what: str) -> str:
        if name not in among:
            raise ValueError(f"{name} is not a {what}; there are: {', '.join(among) or 'none'}")
        return name

    def columns(self) -> dict[str, Feature]:
        """The features of the Vector: the declared ones, then traits with `in_model`.

        A choice becomes a column per value, each divided by sqrt 2, so that two customers
        who differ are one unit apart.
        """
        columns = dict(self.features)
        for name, trait in self.traits.items():
            if not trait.in_model:
                continue
            if trait.kind != "choice":
                columns[name] = Feature(expression=name, weight=trait.weight)
            for value in trait.values if trait.kind == "choice" else ():
                columns[f"{name}={value}"] = Feature(
                    expression=f"is_({name}, {value!r})", weight=trait.weight / 2**0.5
                )
        return columns

    def features_id(self) -> str:
        """Names the list of features that samples carry."""
        names = [(name, feature.expression) for name, feature in self.columns().items()]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]

    def digest(self, partitions: int, partitioner: Partitioner) -> str:
        """The layout: SHA-256 of all that enters the function, FOLD_VERSION included."""
        body = {
            "fold": FOLD_VERSION,
            "partitions": partitions,
            "partitioner": partitioner,
            # How the trainer prepares a feature is in the Model, so it may change at any time.
            "columns": [(name, column.expression) for name, column in self.columns().items()],
            "definition": self.model_dump(
                mode="json",
                exclude={
                    "features": True,
                    "traits": {"__all__": {"in_model", "weight"}},
                },
            ),
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
