"""What the customers do on one day, as columns: one group of columns per kind of call."""

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.core.calendar import DAY
from segstream.shop.people import Floats, Ints, People
from segstream.shop.persona import BARGAIN, BROWSER, column

PRODUCTS = 2_000
PAGES = ("Home", "Search", "Category", "Offers", "Sign up")
SIGN_UP = len(PAGES) - 1
_STEP = 25_000  # ms from one thing that is done in a visit to the next
_LAST = DAY - 40 * _STEP  # visits begin before it, so that they end on the same day
_MOST = 30  # products looked at in one visit
_SURVEYS = 1 / 120  # answers per customer and day
_UPDATES = 0.5 / 365  # changes of a profile per customer and day
_REFUND_DAYS = (3, 21)
_PEAKS = ((12.5, 2.2, 0.35), (20.0, 2.0, 0.65))  # hours: middle, spread, share of visits
_WEEK = np.array([0.9, 0.92, 0.95, 0.98, 1.0, 1.15, 1.2])  # Monday first

VISIT = {
    name: column(name) for name in ("visits", "views", "adds", "buys", "items", "basket", "refunds")
}
_POSTS, _SCORE, _PLUS = column("posts"), column("score"), column("plus")


class Group(NamedTuple):
    """Calls of one kind: `at` ms of the day, `who` customers or, behind them, guests."""

    kind: str
    at: Ints
    who: Ints
    columns: tuple[npt.NDArray[np.generic], ...]


class Refunds(NamedTuple):
    """Orders that are sent back some days after."""

    day: Ints
    who: Ints
    order: Ints
    total: Floats


@dataclass(frozen=True)
class Circumstances:
    """What is special about a day."""

    number: int
    season: float  # × the visits
    prices: float  # × the amounts
    guests: float  # expected number of anonymous visits


def season(day: date) -> float:
    """Weekly and yearly: more at weekends and before Christmas, less in summer."""
    year = day.timetuple().tm_yday
    christmas = 0.35 * np.exp(-(((year - 342) / 14) ** 2))
    summer = 0.12 * np.exp(-(((year - 212) / 30) ** 2))
    return float(_WEEK[day.weekday()] * (1 + christmas - summer))


def draw(
    rng: np.random.Generator, of: People, now: Ints, circumstances: Circumstances
) -> tuple[list[Group], Refunds]:
    """All calls of a day but the refunds, and the refunds of later days that follow from it.

    `now`: int64 [customers], persona of each; who has not joined, or joins today, only signs up.
    """
    there = np.flatnonzero(of.joined < circumstances.number)
    groups, refunds = _visits(rng, of, now, there, circumstances)
    groups += _sign_ups(rng, of, now, there, circumstances.number)
    return groups + _said(rng, now, there), refunds


def _visits(
    rng: np.random.Generator, of: People, now: Ints, there: Ints, today: Circumstances
) -> tuple[list[Group], Refunds]:
    rate = VISIT["visits"][now[there]] / 90 * of.activity[there] * today.season
    known = np.repeat(there, rng.poisson(rate))
    guests = int(rng.poisson(today.guests))
    who = np.concatenate([known, len(now) + np.arange(guests)])
    persona = np.concatenate([now[known], np.full(guests, BROWSER)])
    count = len(who)
    at = _moments(rng, count)
    buys = (rng.random(count) < VISIT["buys"][persona]) & (who < len(now))
    wanted = np.where(buys, VISIT["items"][persona] - 1, VISIT["adds"][persona])
    adds = np.where(who < len(now), np.minimum(rng.poisson(wanted) + buys, _MOST), 0)
    views = np.clip(rng.poisson(VISIT["views"][persona] - 1) + 1, adds, _MOST)
    spend = np.concatenate([of.spend[known], np.ones(guests)])
    amount = VISIT["basket"][persona] * spend * today.prices * rng.lognormal(-0.08, 0.4, count)
    price = np.maximum(np.rint(100 * amount / np.maximum(adds, 1)), 1) / 100

    visit = np.repeat(np.arange(count), views)
    step = np.arange(len(visit)) - np.repeat(np.cumsum(views) - views, views)
    viewed = at[visit] + (step + 1) * _STEP - rng.integers(0, _STEP // 2, len(visit))
    product = rng.integers(0, PRODUCTS, len(visit))
    added = np.flatnonzero(step < adds[visit])
    looked = Group("viewed", viewed, who[visit], (product, product, price[visit]))
    taken = visit[added]
    basket = Group(
        "added", viewed[added] + 9_000, who[taken], (product[added], product[added], price[taken])
    )
    bought = np.flatnonzero(buys)
    order = today.number * 1_000_000 + np.arange(len(bought))
    total = price[bought] * adds[bought]
    coupon = (persona[bought] == BARGAIN) & (rng.random(len(bought)) < 0.6)
    ordered = Group(
        "ordered", at[bought] + (views[bought] + 2) * _STEP, who[bought], (order, total, coupon)
    )
    name = rng.integers(0, SIGN_UP, count)
    page = Group("page", at, who, (name, name))
    sent_back = _sent_back(rng, today.number, persona[bought], (who[bought], order, total))
    return [page, looked, basket, ordered], sent_back


def _sent_back(
    rng: np.random.Generator, day: int, persona: Ints, orders: tuple[Ints, Ints, Floats]
) -> Refunds:
    count = len(persona)
    back = rng.random(count) < VISIT["refunds"][persona]
    part = np.where(rng.random(count) < 0.5, 1.0, rng.uniform(0.3, 0.9, count))
    after = rng.integers(*_REFUND_DAYS, count)
    who, order, total = orders
    amount = np.rint(100 * total * part) / 100
    return Refunds(day + after[back], who[back], order[back], amount[back])


def refunded(rng: np.random.Generator, due: Refunds) -> Group:
    """The refunds of a day, in office hours."""
    at = rng.integers(8 * 3_600_000, 18 * 3_600_000, len(due.who))
    return Group("refunded", at, due.who, (due.order, due.total))


def _sign_ups(
    rng: np.random.Generator, of: People, now: Ints, there: Ints, day: int
) -> list[Group]:
    """Traits: of all who join today, and of some whose profile changes."""
    new = np.flatnonzero(of.joined == day)
    changed = there[rng.random(len(there)) < _UPDATES]
    who = np.concatenate([new, changed])
    at = _moments(rng, len(who))
    plus = of.keen[who] < _PLUS[now[who]]
    traits = (of.age[who], of.country[who], plus, of.keen[who] < 0.5)
    name = np.full(len(new), SIGN_UP)
    signed = Group("page", at[: len(new)] - 30_000, new, (name, name))
    return [signed, Group("traits", at, who, traits)]


def _said(rng: np.random.Generator, now: Ints, there: Ints) -> list[Group]:
    """Answers to surveys, and what is done in social networks."""
    asked = there[rng.random(len(there)) < _SURVEYS]
    score = np.clip(np.rint(rng.normal(_SCORE[now[asked]], 1.6)), 0, 10).astype(np.int64)
    answers = Group("answered", _moments(rng, len(asked)), asked, (score,))
    who = np.repeat(there, rng.poisson(_POSTS[now[there]] / 90))
    at, shared = _moments(rng, len(who)), rng.random(len(who)) < 0.2
    network, post = rng.integers(0, 3, len(who)), rng.integers(0, 100_000, len(who))
    groups = [
        Group(kind, at[which], who[which], (network[which], post[which]))
        for kind, which in (("shared", shared), ("liked", ~shared))
    ]
    return [answers, *groups]


def _moments(rng: np.random.Generator, count: int) -> Ints:
    """ms of the day, int64 [count], with a peak at noon and a greater one in the evening."""
    evening = rng.random(count) < _PEAKS[1][2]
    middle = np.where(evening, _PEAKS[1][0], _PEAKS[0][0])
    spread = np.where(evening, _PEAKS[1][1], _PEAKS[0][1])
    hours = rng.normal(middle, spread)
    at = (hours * 3_600_000).astype(np.int64)
    return np.where((at < 60_000) | (at >= _LAST), rng.integers(60_000, _LAST, count), at)
