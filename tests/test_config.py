"""A declared Definition: what is wrong with it is said at once, with its place."""

from typing import Any

import pytest

from segstream.core.check import ConfigError, define
from segstream.core.event import Reader, Records
from segstream.core.field import Fields
from tests.harness import RETAIL

SMALL: dict[str, Any] = {
    "measures": {
        "orders": {"kind": "count", "events": ["Order"]},
        "spend": {"kind": "sum", "events": ["Order"], "field": "properties.total"},
        "nps": {"kind": "last", "events": ["Survey"], "field": "properties.score"},
    },
    "traits": {"country": {"kind": "choice", "values": ["DE", "FR"], "in_model": True}},
    "features": {"orders": {"expression": "orders[30d]"}},
}


def mistakes(**changes: Any) -> dict[str, str]:
    """Key path → text of every mistake in SMALL with some tables replaced."""
    with pytest.raises(ConfigError) as caught:
        define({**SMALL, **changes})
    found = {".".join(map(str, m.path)): m.text for m in caught.value.mistakes}
    assert all(path in str(caught.value) for path in found)
    return found


def measure(**changes: Any) -> dict[str, Any]:
    return {**SMALL["measures"], "other": {"kind": "count", "events": ["Order"], **changes}}


def test_all_mistakes_are_named_at_once() -> None:
    """Those of shape, those of sense, and those of expressions, in one go."""
    found = mistakes(
        tick={"period": "7h"},
        pane={"length": "1w"},
        hysteresis={"clear": 0.95, "held": 0.9},
        measures={**SMALL["measures"], "bad": {"kind": "sum", "events": ["Order"]}},
        features={
            "a": {"expression": "orders[30d] +"},
            "b": {"expression": "nobody[30d]"},
            "c": {"expression": "bad[30d]"},  # its measure has a mistake of its own: not twice
        },
        colour="red",
    )
    assert set(found) == {
        "tick.period", "pane.length", "hysteresis.clear", "measures.bad", "colour",
        "features.a.expression", "features.b.expression",
    }  # fmt: skip
    assert "needs a field" in found["measures.bad"]
    assert (
        "nobody is not a measure; there are: orders, spend, nps" in found["features.b.expression"]
    )


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("orders", "orders needs a window: orders[90d]"),
        ("nps[30d]", "nps is a last value and has no window; write nps"),
        ("orders[36h]", "whole number of panes"),
        ("orders[2000d]", "at most 1,000 panes"),
        ("recency(country) + orders[1d]", "country is not a measure"),
        ("is_(country, 'IT')", "'IT' is not among the values of trait country"),
        ("is_(city, 'X')", "city is not a trait; there are: country"),
        ("2 ** 3", "is not understood"),
    ],
)
def test_an_expression_is_checked_against_what_is_declared(expression: str, words: str) -> None:
    assert words in mistakes(features={"f": {"expression": expression}})["features.f.expression"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": []}, "names no calls"),
        ({"field": "properties.x"}, "a count has no field"),
        ({"kind": "distinct", "field": "properties.x"}, "values = [...] belongs to kind distinct"),
        ({"kind": "last", "field": "properties.x", "values": ["a"]}, "belongs to kind distinct"),
        ({"money": True}, ""),
    ],
)
def test_a_measure_must_be_whole(change: dict[str, Any], words: str) -> None:
    found = mistakes(measures=measure(**change))
    assert any(path.startswith("measures.other") and words in text for path, text in found.items())


def test_fields_that_cannot_be_read_together() -> None:
    """A number here and a text there, or a value within what is read as a value."""
    both = measure(kind="distinct", field="properties.total", values=["a"])
    assert "read as a number and as text" in mistakes(measures=both)["measures.other.field"]
    inner = measure(kind="sum", field="properties.total.net")
    assert "lies within properties.total" in mistakes(measures=inner)["measures.other.field"]
    outer = {"a": inner["other"], **SMALL["measures"]}
    assert "lies within" in mistakes(measures=outer)["measures.a.field"]


def test_a_feature_needs_a_window() -> None:
    assert "needs a window" in mistakes(features={"f": {"expression": "nps"}})["features"]


def test_names_that_python_would_not_like() -> None:
    names = ["class", "mro", "__init__", "__x", "_", "a b", "$x", "f_612062", "0", "True", "type"]
    measures = {
        f"m{i}": {"kind": "sum", "events": ["Order"], "field": f"properties.{name}"}
        for i, name in enumerate(names)
    }
    features = {f"f{i}": {"expression": f"m{i}[1d]"} for i in range(len(names))}
    fields = Fields(define({"measures": measures, "features": features}))
    body = ",".join(f'"{name}":{i}' for i, name in enumerate(names))
    value = f'{{"type":"track","event":"Order","userId":"u","properties":{{{body}}}}}'.encode()
    records = Records([0], [0], [value], [None], [None])
    decoded = Reader(fields).decode(records, 0, 1, "murmur2")
    assert decoded.events.values.tolist() == [list(range(len(names)))]


def test_a_choice_in_the_model_is_a_feature_per_value() -> None:
    columns = define(SMALL).columns()
    assert list(columns) == ["orders", "country=DE", "country=FR"]
    assert columns["country=DE"].expression == "is_(country, 'DE')"
    assert columns["country=DE"].weight == pytest.approx(0.5**0.5)


def test_the_layout_is_what_enters_the_function() -> None:
    """Words, weights and transforms are the trainer's affair; everything else is not."""

    def digest(change: dict[str, Any], partitions: int = 4) -> str:
        return define({**RETAIL, **change}).digest(partitions, "murmur2")

    def first(**changes: Any) -> dict[str, Any]:
        name, feature = next(iter(RETAIL["features"].items()))
        return {**RETAIL["features"], name: {**feature, **changes}}

    assert digest({"features": first(weight=2.0, low="?", fill=1.0)}) == digest({})
    other: list[dict[str, Any]] = [
        {"tick": {"period": "6h"}},
        {"pane": {"length": "6h"}},
        {"hysteresis": {"hold": "1d"}},
        {"panel": {"size": 10}},
        {"features": first(expression="orders[30d]")},
        {"features": dict(reversed(RETAIL["features"].items()))},
    ]
    assert len({digest({}), digest({}, 8), *map(digest, other)}) == len(other) + 2
