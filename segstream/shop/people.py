"""Who is a customer from when on, of which persona, and what stays the same about each."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.shop.persona import BARGAIN, LOYAL, NEW, column

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

OPENING = 28
"""Days within which the first customers sign up."""
GROWTH = 540
"""Days within which the later ones do."""
_LATER = 0.15
_RUSH = 15.0
"""Days in which most of those of the new persona sign up (mean of an exponential)."""
_MOVED = 0.4
"""Share of the loyal whom the campaign makes bargain hunters."""
_PEOPLE, _SWITCHES = 1, 2  # streams of random numbers; days have 3


class Stay(NamedTuple):
    """A customer is of a persona from `since_ms` on, until its next stay or for ever."""

    customer: str
    since_ms: int
    persona: str


class Truth(NamedTuple):
    """All who have signed up by some moment, in the order of their ids.

    `persona`: int64 [n], position in PERSONAS. `since`: int64 [n], ms, begin of the stay.
    """

    customers: list[str]
    persona: Ints
    since: Ints


class People(NamedTuple):
    """What stays the same about each customer; all [customers]."""

    joined: Ints  # day on which it signs up; may lie behind the end
    persona: Ints  # on that day
    activity: Floats  # × the visits of its persona
    spend: Floats  # × the amounts
    age: Ints
    country: Ints  # position in text.COUNTRIES
    keen: Floats  # 0 to 1: has the paid plan if below its persona's share


class Stays(NamedTuple):
    """Stays in the order of days, all [stays]; at most one a day per customer."""

    day: Ints
    customer: Ints
    persona: Ints


def people(seed: int, customers: int, new_persona: int | None) -> People:
    """The customers of a shop; those of the new persona come from day `new_persona` on."""
    rng = np.random.default_rng([seed, _PEOPLE])
    share = column("share")
    first = rng.choice(NEW, customers, p=share[:NEW] / share[:NEW].sum())
    later = rng.random(customers) < _LATER
    joined = np.where(
        later,
        rng.integers(OPENING, GROWTH, customers),
        rng.integers(0, OPENING, customers),
    )
    fresh, wait = rng.random(customers) < share[NEW], rng.exponential(_RUSH, customers)
    if new_persona is not None:
        first = np.where(fresh, NEW, first)
        joined = np.where(fresh, new_persona + wait.astype(np.int64), joined)
    return People(
        joined,
        first,
        rng.lognormal(-0.03, 0.25, customers),
        0.8 * (rng.pareto(4.0, customers) + 1) * 0.94,
        np.clip(rng.normal(column("age")[first], 9).astype(np.int64), 18, 90),
        rng.choice(6, customers, p=[0.42, 0.2, 0.14, 0.1, 0.08, 0.06]),
        rng.random(customers),
    )


def stays(
    seed: int,
    days: int,
    of: People,
    hazard: float,
    new_persona: int | None,
    campaign: int | None,
) -> Stays:
    """All stays that begin before day `days`. `hazard`: switches per customer and year."""
    share = column("share")
    now = of.persona.copy()
    found: list[tuple[Ints, Ints]] = []
    for day in range(days):
        rng = np.random.default_rng([seed, _SWITCHES, day])
        there = of.joined < day
        before = now.copy()
        if day == campaign:
            now[there & (now == LOYAL) & (rng.random(len(now)) < _MOVED)] = BARGAIN
        weights = share.copy()
        if new_persona is None or day < new_persona:
            weights[NEW] = 0
        moved = np.flatnonzero(there & (now == before) & (rng.random(len(now)) < hazard / 365))
        now[moved] = _others(rng.random(len(moved)), now[moved], weights)
        begun = np.flatnonzero((of.joined == day) | (now != before))
        found.append((begun, now[begun]))
    return Stays(
        np.repeat(np.arange(days), [len(begun) for begun, _ in found]),
        np.concatenate([begun for begun, _ in found]),
        np.concatenate([personas for _, personas in found]),
    )


def _others(chance: Floats, current: Ints, weights: Floats) -> Ints:
    """Personas other than the current ones, by weight."""
    table = np.tile(weights, (len(current), 1))
    table[np.arange(len(current)), current] = 0
    upto = table.cumsum(axis=1)
    return np.asarray((chance[:, None] * upto[:, -1:] >= upto).sum(axis=1), np.int64)
