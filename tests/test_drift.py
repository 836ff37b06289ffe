"""The monitors of drift: their arithmetic, and what they see on synthetic customers."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import drift as rivers

from segstream.core import drift
from segstream.core.calendar import DAY, instant_ms
from segstream.core.drift import Watch, by_distance, by_shares, psi
from segstream.core.feature import Vectors
from segstream.core.output import ms_text
from segstream.core.panel import Panel, PanelSample
from segstream.core.record import Drift, ModelRecord
from segstream.learn import Training, fit
from segstream.space import TrainedFeature

START = instant_ms("2026-01-01T00:00:00Z")
FEATURES = 6
TRAINING = Training(
    tuple(TrainedFeature(f"f{j}", f"f{j}", clip=(0.0, 1.0)) for j in range(FEATURES)), "six", k=6
)


@given(st.lists(st.floats(0, 5), max_size=150), st.integers(0, 100))
def test_the_test_on_distances_is_rivers(distances: list[float], jump: int) -> None:
    """Day by day the same alarms as `river.drift.PageHinkley`, over any number of them."""
    ours = Drift(reference=1)
    theirs = rivers.PageHinkley(
        min_instances=drift.SETTLED,
        delta=drift.DELTA,
        threshold=drift.THRESHOLD,
        alpha=drift.FORGETTING,
    )
    for day, distance in enumerate([*distances, *[1.0] * 40, *[1.0 + jump / 50] * 40]):
        at = ms_text(START + day * DAY)
        ours = by_distance(ours, distance, at)
        theirs.update(distance)  # type: ignore[no-untyped-call]
        assert (ours.distance_alarm == at) == theirs.drift_detected


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)),
        min_size=2,
        max_size=10,
    )
)
def test_stability_of_shares(pairs: list[tuple[float, float]]) -> None:
    """Never negative, 0 for equal shares, the same in both directions."""
    a, b = np.array(pairs).T
    a, b = a / a.sum(), b / b.sum()
    assert psi(a, a) == 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) >= 0
    assert np.isfinite(psi(a, np.eye(len(a))[0]))


def test_shares_alarm_once_until_they_are_back() -> None:
    state, alarms = Drift(reference=1), list[int]()
    for day, found in enumerate([0.0, 0.3, 0.2, 0.3, 0.26, 0.09, 0.24, 0.25]):
        at = ms_text(START + day * DAY)
        state = by_shares(state, found, at)
        if state.share_alarm == at:
            alarms.append(day)
    assert alarms == [1, 7]


class TestEarlyVersions:
    def watch(self, **known: str) -> Watch:
        watch = Watch(first_version(Customers(0)))
        watch.drift = watch.drift.model_copy(update=known)
        return watch

    def test_an_alarm_after_the_newest_version_calls_for_one(self) -> None:
        watch = self.watch(distance_alarm=ms_text(START))
        assert watch.calls(START, START - 1)
        assert not watch.calls(START, START)

    def test_at_most_once_a_week(self) -> None:
        watch = self.watch(share_alarm=ms_text(START), early=ms_text(START - 6 * DAY))
        assert not watch.calls(START, START - 1)
        assert watch.calls(START + DAY, START - 1)

    def test_a_new_reference_begins_anew_but_knows_the_alarms(self) -> None:
        known = Drift(reference=1, days=9, rise=1.0, psi=0.5, shifted=True, early=ms_text(START))
        known = known.model_copy(update={"share_alarm": ms_text(START)})
        carried = drift.passed_on(known, 7, START + DAY, major=True, early=False)
        assert carried == Drift(reference=7, share_alarm=ms_text(START), early=ms_text(START))
        same = drift.passed_on(known, 7, START + DAY, major=False, early=True)
        assert same == known.model_copy(update={"early": ms_text(START + DAY)})


@dataclass
class Customers:
    """Customers in six places, each wandering about its own point; vectors change by the day.

    As windowed features do, they move slowly: a share of what was today is there tomorrow.
    """

    seed: int
    count: int = 1_500

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.places = self.rng.normal(0, 2.5, (7, FEATURES))
        self.persona = self.rng.integers(6, size=self.count)
        self.own = self.rng.normal(0, 0.6, (self.count, FEATURES))
        self.mood = self.rng.normal(0, 0.6, (self.count, FEATURES))

    def day(self) -> Vectors:
        fresh = self.rng.normal(0, 0.6, self.mood.shape)
        self.mood = 0.95 * self.mood + (1 - 0.95**2) ** 0.5 * fresh
        # some change their persona, as people do
        moved = self.rng.random(self.count) < 0.35 / 365
        self.persona[moved & (self.persona < 6)] = self.rng.integers(6)
        return (self.places[self.persona] + self.own + self.mood).astype(np.float32)


def first_version(customers: Customers) -> ModelRecord:
    panel = Panel(FEATURES)
    for customer, vector in enumerate(customers.day()):
        panel.put(PanelSample(START, customer, vector))
    return fit(TRAINING, panel, {}, None, START)


def alarms(watch: Watch, customers: Customers, days: range) -> list[int]:
    found = []
    for day in days:
        at = START + day * DAY
        watch.look(customers.day(), at)
        if drift.last_alarm(watch.drift) == at:
            found.append(day)
    return found


@pytest.mark.parametrize("seed", range(5))
def test_no_false_alarm_in_a_year_and_a_new_persona_within_a_month(seed: int) -> None:
    """A tenth of all customers turn into something new, one by one within three weeks."""
    customers = Customers(seed)
    watch = Watch(first_version(customers))
    assert alarms(watch, customers, range(1, 361)) == []
    turning = np.random.default_rng(seed).permutation(customers.count)[: customers.count // 10]
    seen = []
    for day in range(361, 391):
        customers.persona[turning[: len(turning) * (day - 360) // 21]] = 6
        seen += alarms(watch, customers, range(day, day + 1))
    assert seen, f"seed {seed}: not seen"


@pytest.mark.parametrize("seed", range(3))
def test_a_campaign_that_moves_customers_between_segments_shows_in_shares(seed: int) -> None:
    customers = Customers(seed)
    watch = Watch(first_version(customers))
    assert alarms(watch, customers, range(1, 31)) == []
    customers.persona[customers.persona == 0] = 1
    assert alarms(watch, customers, range(31, 32)) == [31]
    assert watch.drift.share_alarm is not None


def test_a_state_from_json_goes_on_exactly() -> None:
    rng = random.Random(3)
    whole = Drift(reference=4)
    for day in range(90):
        at = ms_text(START + day * DAY)
        cut = Drift.model_validate_json(whole.model_dump_json())
        distance = rng.lognormvariate(0, 0.2)
        cut = by_shares(by_distance(cut, distance, at), distance / 5, at)
        whole = by_shares(by_distance(whole, distance, at), distance / 5, at)
        assert cut == whole
