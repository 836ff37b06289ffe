"""A made-up shop whose customers are of known kinds: calls with the truth beside them.

    people (who joins when, and switches) ─▶ day (what they do) ─▶ text (Segment calls)

Everything follows from the seed: each day has random numbers of its own, so a day is the same
whatever is drawn before it, and a shorter run is the beginning of a longer one.
"""

from segstream.shop.people import Stay, Truth
from segstream.shop.persona import PERSONAS, Persona
from segstream.shop.shop import Day, Shop

__all__ = ["PERSONAS", "Day", "Persona", "Shop", "Stay", "Truth"]
