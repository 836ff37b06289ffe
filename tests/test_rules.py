"""Rules: true of those they are said of, measured honestly, and sayable."""

import math
import re
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segstream.core.calendar import instant_ms
from segstream.core.feature import Vectors
from segstream.core.model import Model
from segstream.core.record import ModelFeature, ModelRecord, Rules
from segstream.learn import fit
from segstream.rules import RECALL, Part, Span, segment_rules, sentence, simplified
from tests import retail

NAN = math.nan
EXPRESSIONS = ("recency(orders)", "orders[90d]", "spend[90d]", "spend[90d] / orders[90d]")
NAMES = ("recency", "orders", "spend", "basket")
FILLS = (180.0, 0.0, 0.0, 50.0)
FEATURES = [
    ModelFeature(
        name=name, expression=expression, transform="none", clip=(0, 1e9), fill=fill, mean=0,
        scale=1, weight=1,
    )
    for name, expression, fill in zip(NAMES, EXPRESSIONS, FILLS, strict=True)
]  # fmt: skip


def shop(size: int = 900, seed: int = 1) -> tuple[Vectors, np.ndarray, np.ndarray]:
    """Customers whose segments follow from two bounds; also who is held out."""
    rng = np.random.default_rng(seed)
    orders = rng.integers(0, 9, size)
    basket = np.where(orders > 0, rng.uniform(10, 90, size), NAN)
    spend = np.where(orders > 0, basket * orders, 0)
    recency = rng.uniform(0, 180, size)
    raw = np.array([recency, orders, spend, basket], np.float32).T
    segments = np.where(orders == 0, 1, np.where(orders >= 4, 2, 3))
    return raw, segments, np.arange(size) % 10 < 3


def rules_of(size: int = 900, seed: int = 1) -> dict[int, Rules]:
    raw, segments, held_out = shop(size, seed)
    return segment_rules(raw, segments, FEATURES, held_out)


def test_says_what_tells_segments_apart_and_nothing_else() -> None:
    found = rules_of()
    assert {s: r.text for s, r in found.items()} == {
        1: "no orders in 90 days",
        2: "orders in 90 days at least 4",
        3: "orders in 90 days 1 to 3",
    }
    for rule in found.values():
        assert (rule.fidelity, rule.recall, rule.covers, rule.precision) == (1, 1, 1, 1)
        assert not rule.approximate


def test_the_same_panel_gives_the_same_rules() -> None:
    assert rules_of(seed=5) == rules_of(seed=5)


def test_what_no_tree_can_imitate_is_approximate() -> None:
    raw, _, held_out = shop()
    segments = np.random.default_rng(99).integers(1, 4, len(raw))
    found = segment_rules(raw, segments, FEATURES, held_out)
    assert found
    for rule in found.values():
        assert rule.approximate
        assert rule.fidelity < 0.6


def test_a_single_segment_is_everybody() -> None:
    raw, segments, held_out = shop()
    (rule,) = segment_rules(raw, np.ones_like(segments), FEATURES, held_out).values()
    assert (rule.text, rule.covers) == ("everybody", 1)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_hardly_anybody_gives_hardly_any_rules(size: int) -> None:
    raw, segments, held_out = shop(size)
    assert set(segment_rules(raw, segments, FEATURES, held_out)) <= set(segments.tolist())


def test_says_where_the_fill_lets_people_in() -> None:
    """Those without a basket count as 50: they are within 40 to 60, as they are for the model."""
    raw, _, held_out = shop()
    raw[:, :3] = 1
    filled = np.where(np.isnan(raw[:, 3]), 50, raw[:, 3])
    segments = np.where((filled >= 40) & (filled < 60), 1, 2)
    found = segment_rules(raw, segments, FEATURES, held_out)
    assert re.fullmatch(r"basket at least 40 and below 60 \(or missing\)", found[1].text)
    assert re.fullmatch(r"basket below 40, or basket at least 60|.*(?<!missing\))", found[2].text)


def test_recency_is_said_as_people_do() -> None:
    values = np.array([[10.5, 0, 0, 0], [70.25, 0, 0, 0]], np.float32)
    part = Part(values, np.zeros_like(values, bool), np.array([1, 2]))
    said = [sentence([{0: span}], FEATURES, part) for span in (Span(30), Span(5, 30))]
    assert said == [
        "at least 30 days without orders",
        "at least 5 and below 30 days without orders",
    ]
    part = part._replace(missing=np.ones_like(values, bool))
    assert sentence([{0: Span(30)}], FEATURES, part).endswith("without orders (or never any)")


CONDITION = re.compile(
    r"(?:(no) )?(orders|spend|basket)(?: in 90 days)?(?: (.*))?|(.*) days without orders"
)


def reads(text: str, raw: Vectors) -> np.ndarray:
    """Who a sentence is true of, by its words alone. raw: float32[n, 4], without missing ones."""
    found = np.zeros(len(raw), bool)
    for box in text.split(", or "):
        held = np.ones(len(raw), bool)
        amounts = box.replace(" and below", " &below")
        for words in amounts.split(" and "):
            match = CONDITION.fullmatch(words)
            assert match, words
            j = NAMES.index(match[2]) if match[2] else 0
            held &= agrees("0" if match[1] else match[3] or match[4], raw[:, j].astype(float))
        found |= held
    return found


def agrees(amount: str, x: np.ndarray) -> np.ndarray:
    held = np.ones(len(x), bool)
    for words in amount.replace(",", "").split(" &"):
        *how, last = words.split()
        number = float(np.float32(last))  # as raw values are: 0.45 is not below 0.45
        match how:
            case ["at", "least"]:
                held &= x >= number
            case ["above"]:
                held &= x > number
            case ["below"]:
                held &= x < number
            case ["at", "most"]:
                held &= x <= number
            case ["exactly"] | []:
                held &= x == number
            case [low, "to"]:
                held &= (x >= float(np.float32(low))) & (x <= number)
            case _:
                raise AssertionError(words)
    return held


@given(st.integers(0, 10_000))
@example(801)
@settings(max_examples=25, deadline=None)
def test_the_figures_are_those_of_the_sentence_as_it_is_said(seed: int) -> None:
    """Read by another reader, from the words alone."""
    rng = np.random.default_rng(seed)
    size = 400
    orders = rng.integers(0, 30, size) * rng.integers(0, 2, size)
    raw = np.array(
        [rng.uniform(0, 200, size), orders, rng.lognormal(3, 2, size) * (orders > 0),
         np.round(rng.uniform(0, 1, size), 3)], np.float32,
    ).T  # fmt: skip
    score = raw[:, 0] / 200 + orders / 20 + np.log1p(raw[:, 2]) / 5 + rng.normal(0, 0.1, size)
    segments = np.digitize(score, np.quantile(score, [0.2, 0.5, 0.9])) + 1
    held_out = rng.random(size) < 0.3
    found = segment_rules(raw, segments, FEATURES, held_out)
    assert found
    for segment, rule in found.items():
        said, own = reads(rule.text, raw[held_out]), segments[held_out] == segment
        assert rule.covers == pytest.approx(said[own].mean(), abs=1e-6), rule.text
        if rule.precision is None:
            assert not said.any()
        else:
            assert rule.precision == pytest.approx(own[said].mean(), abs=1e-6), rule.text
        assert rule.approximate or (rule.covers or 0) >= RECALL


@given(st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_simplified_boxes_lose_next_to_no_members_of_the_leaves_they_keep(seed: int) -> None:
    rng = Random(seed)
    values = np.array([[rng.randrange(12), rng.random() * 9] for _ in range(200)], np.float32)
    segments = np.array([1 + (x > 5 and y < 6) for x, y in values])
    part = Part(values, np.zeros_like(values, bool), segments)
    cuts = sorted({rng.randrange(1, 12) for _ in range(3)})
    edges = [-np.inf, *map(float, cuts), np.inf]
    leaves = [
        {0: Span(low, high), 1: Span(*side)}
        for low, high in pairwise(edges)
        if high > 6
        for side in ((-np.inf, 6.0), (6.0, np.inf))
        if side[0] < 6
    ]
    before = np.any([part.inside(box) for box in leaves], axis=0) & (segments == 2)
    boxes = simplified(leaves, 2, part)
    after = np.any([part.inside(box) for box in boxes], axis=0) & (segments == 2)
    assert len(boxes) == 1
    assert (before & ~after).sum() <= 0.2 * max(1, before.sum())


@pytest.mark.parametrize("day", ["2011-06-01", "2011-12-01"])
def test_real_customers(day: str) -> None:
    """The bounds of `approximate` are met, and a sentence has no more words than people take."""
    if not retail.DATA.exists():
        pytest.skip("the preset's data are absent")
    record = fit(retail.TRAINING, retail.panel(day), {}, None, instant_ms(f"{day}T00:00:00Z"))
    rules = [segment.rules for segment in record.segments]
    assert all(rules)
    found = [rule for rule in rules if rule]
    assert min(rule.fidelity for rule in found) >= 0.9
    assert min(rule.recall for rule in found) >= 0.75
    assert max(len(rule.text.split()) for rule in found) <= 60
    again = ModelRecord.model_validate_json(record.model_dump_json(by_alias=True))
    assert again == record
    assert Model(again).names
