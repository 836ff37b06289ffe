"""A model for the traffic, fitted on the customers' true vectors; they are counted here anew."""

import numpy as np

from benchmarks.traffic import ADDED, COMPLETED, REFUNDED, START_MS, VIEWED, Floats, Ints, Traffic
from consumers.settings import Settings
from consumers.trainer import training_of
from segstream.core.expression import Recency, Term, Window
from segstream.core.feature import Features, Vectors
from segstream.core.panel import Panel, PanelSample
from segstream.core.record import ModelRecord
from segstream.learn import fit

PANEL = 5_000
_DAY_MS = 86_400_000
_WINDOW = 90 * _DAY_MS


def model_of(settings: Settings, past: Traffic) -> ModelRecord:
    """Version 1, learned from a panel of the customers as the history leaves them."""
    training = training_of(settings)
    vectors = _vectors(past, Features(f.expression for f in training.features))
    panel = Panel(len(training.features))
    for customer in range(0, len(vectors), max(1, len(vectors) // PANEL)):
        panel.put(PanelSample(START_MS, customer, vectors[customer]))
    return fit(training, panel, {}, None, START_MS)


def _vectors(past: Traffic, features: Features) -> Vectors:
    """Raw vectors of all customers at START_MS, float32 [customers, features]."""
    size = len(past.people.ids)

    def tally(kind: int, weights: Floats | None = None) -> Floats:
        mine = past.kind == kind
        found = np.bincount(past.customer[mine], None if weights is None else weights[mine], size)
        return found.astype(np.float64)

    latest = np.full(size, -1, np.int64)
    active: Ints = np.flatnonzero(past.kind != REFUNDED)
    np.maximum.at(latest, past.customer[active], past.time[active])
    terms: dict[Term, Floats] = {
        Recency("activity"): np.where(latest < 0, np.nan, (START_MS - latest) / _DAY_MS),
        Window("orders", _WINDOW): tally(COMPLETED),
        Window("spend", _WINDOW): tally(COMPLETED, past.total),
        Window("views", _WINDOW): tally(VIEWED),
        Window("adds", _WINDOW): tally(ADDED),
        Window("refunded", _WINDOW): tally(REFUNDED, past.total),
    }
    return features.vectorize(terms, size)
