"""The kinds of customers. Their numbers were chosen so that they overlap as real ones do."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Persona(NamedTuple):
    """What a customer of this kind does on average."""

    name: str
    share: float  # of those who join
    visits: float  # to the web shop, per 90 days
    views: float  # products looked at per visit, at least 1
    adds: float  # of these, put into the basket, if nothing is bought
    buys: float  # share of visits that end with an order
    items: float  # products per order, at least 1
    basket: float  # amount of an order
    refunds: float  # share of orders that are sent back, in whole or in part
    posts: float  # likes and shares per 90 days
    score: float  # 0 to 10: would recommend the shop
    plus: float  # share with the paid plan
    age: float  # years, mean


PERSONAS = (
    Persona("loyal", 0.16, 11.0, 1.8, 0.3, 0.82, 3.0, 60.0, 0.02, 3.0, 8.8, 0.60, 44),
    Persona("premium", 0.11, 7.0, 2.0, 0.3, 0.65, 2.5, 290.0, 0.02, 1.0, 8.2, 0.75, 51),
    Persona("bargain", 0.16, 11.0, 2.5, 1.4, 0.50, 4.5, 22.0, 0.02, 4.0, 6.8, 0.10, 36),
    Persona("browser", 0.16, 11.0, 3.0, 1.7, 0.012, 1.5, 45.0, 0.05, 6.0, 6.5, 0.05, 27),
    Persona("returner", 0.12, 8.0, 2.5, 0.4, 0.62, 3.0, 120.0, 0.65, 4.0, 5.6, 0.25, 31),
    Persona("occasional", 0.17, 4.5, 1.6, 0.1, 0.55, 1.4, 75.0, 0.02, 0.5, 7.2, 0.08, 47),
    Persona("dormant", 0.12, 1.5, 1.2, 0.2, 0.05, 1.2, 50.0, 0.03, 0.2, 4.9, 0.03, 42),
    # Lives on small orders of one thing each; nobody is like this before it appears.
    Persona("refiller", 0.10, 18.0, 1.1, 0.0, 0.85, 1.1, 13.0, 0.02, 0.5, 8.0, 0.40, 34),
)
NAMES = [persona.name for persona in PERSONAS]
LOYAL, BARGAIN, BROWSER = map(NAMES.index, ("loyal", "bargain", "browser"))
NEW = len(PERSONAS) - 1
"""The one that is not there from the beginning."""


def column(name: str) -> npt.NDArray[np.float64]:
    """A number of all personas, float64 [personas]."""
    return np.array([getattr(persona, name) for persona in PERSONAS], np.float64)
