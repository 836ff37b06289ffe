"""Sums of money are kept in one base currency, by dated rates."""

import json
from typing import Any

import pytest

from segstream.core.check import ConfigError, define
from segstream.core.inspect import portrait
from segstream.core.step import Partition
from tests.harness import RETAIL, Run, columns
from tests.oracle import Record

MONEY = {
    "base": "GBP",
    "rates": {"2026-01-01": {"EUR": 0.86, "USD": 0.75}, "2026-02-01": {"EUR": 0.5, "USD": 0.25}},
}
NOW = 2_000_000_000_000


def config(money: Any = MONEY) -> dict[str, Any]:
    spend = {**RETAIL["measures"]["spend"], "money": True}
    measures = {**RETAIL["measures"], "spend": spend}
    return {**RETAIL, "measures": measures, **({"money": money} if money else {})}


def order(offset: int, day: str, properties: dict[str, Any]) -> Record:
    body = {"type": "track", "userId": "u", "event": "Order Completed", "properties": properties}
    value = json.dumps({**body, "timestamp": f"{day}T00:00:00Z"}).encode()
    return Record(offset, NOW, None, value)


def test_each_amount_is_converted_at_the_rate_of_its_day() -> None:
    run = Run(config(), {}, Partition(0, 1, "murmur2", "customer-events"))
    records = [
        order(0, "2026-01-05", {"total": 10.01, "currency": "GBP"}),
        order(1, "2026-01-06", {"total": 10.01, "currency": "EUR"}),  # 8.6086
        order(2, "2026-02-06", {"total": 10.01, "currency": "EUR"}),  # 5.005, half to even
        order(3, "2026-02-06", {"total": 1, "currency": None}),
        order(4, "2025-12-31", {"total": 4, "currency": "USD"}),  # before the first table: 3
    ]
    run.batch(columns(records))
    assert run.checkpoint.counts["valid"] == 5
    seen = portrait(run.function, "u", run.states()["u"], run.checkpoint.clock, None)
    assert seen.terms["spend[90d]"] == pytest.approx(10.01 + 8.61 + 5.00 + 1 + 3)


@pytest.mark.parametrize("currency", ["XXX", "", "gbp", 5, True, {"code": "GBP"}])
def test_an_unknown_currency_is_a_dead_letter_that_names_it(currency: Any) -> None:
    run = Run(config(), {}, Partition(0, 1, "murmur2", "customer-events"))
    run.batch(columns([order(0, "2026-01-05", {"total": 1, "currency": currency})]))
    assert run.checkpoint.counts["dead_letters"] == 1
    headers = dict(run.outputs[0].headers)
    assert headers["segstream.errors.reason"] == b"currency"
    assert b"none of GBP, EUR, USD" in (headers["segstream.errors.message"] or b"")


@pytest.mark.parametrize(
    ("money", "path"),
    [
        (None, ("measures", "spend", "money")),
        ({"base": "pounds"}, ("money", "base")),
        ({"base": "GBP", "rates": {"2026-01-01": {"EUR": -1.0}}}, ("money",)),
        ({"base": "GBP", "rates": {"yesterday": {"EUR": 1.0}}}, ("money", "rates")),
    ],
)
def test_mistakes_name_their_place(money: Any, path: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        define(config(money))
    assert any(m.path[: len(path)] == path for m in error.value.mistakes)
