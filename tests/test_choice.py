"""The number of segments: scores, smoothing, limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core import choice, kmeans
from segstream.core.calendar import DAY, instant_ms
from segstream.core.choice import Score, decide
from segstream.core.feature import Vectors
from segstream.core.output import ms_text
from segstream.core.record import Choice

START = instant_ms("2026-01-01T00:00:00Z")
BOUNDS = (4, 10)
score = st.builds(Score, st.floats(0.05, 1), st.floats(0, 0.2))


def mixture(k: int, seed: int, count: int = 3_000, apart: float = 6.0) -> Vectors:
    """Customers in k groups of unequal size, next neighbours `apart` deviations from each other.

    Where distances between groups differ much, the silhouette sees near ones as one group, and
    people would too.
    """
    rng = np.random.default_rng(seed)
    axes = np.vstack([np.eye(6), -np.eye(6)]) * apart / 2**0.5
    places = rng.permutation(axes)[:k]
    shares = rng.dirichlet(np.full(k, 20.0))
    spread = rng.normal(0, 1, (count, 6))
    return (places[rng.choice(k, count, p=shares)] + spread).astype(np.float32)


@pytest.mark.parametrize("k", range(4, 10))
def test_finds_as_many_as_there_are(k: int) -> None:
    for seed in range(3):
        chosen = choice.choose(mixture(k, seed), BOUNDS, None, START, np.random.default_rng(seed))
        assert chosen.k == k, f"seed {seed}"
        assert [tried for tried, _ in chosen.scores] == list(range(4, 11))
        assert chosen.changes == []


def test_the_same_panel_and_parent_give_the_same_choice() -> None:
    z = mixture(5, 1)
    before = choice.choose(z, BOUNDS, None, START, np.random.default_rng(1))
    again = [
        choice.choose(z, BOUNDS, before, START + DAY, np.random.default_rng(2)) for _ in range(2)
    ]
    assert again[0] == again[1]


def test_micro_clusters_weigh_what_they_hold() -> None:
    """Weighted k-means on points = k-means on the points repeated."""
    rng = np.random.default_rng(3)
    points, counts = rng.normal(size=(30, 2)), rng.integers(1, 6, 30)
    repeated = np.repeat(points, counts, axis=0)
    start = points[:4]
    weighted = kmeans.lloyd(points, start, counts.astype(float))
    plain = kmeans.lloyd(repeated, start)
    np.testing.assert_allclose(weighted.centres, plain.centres, atol=1e-12)
    assert weighted.inertia == pytest.approx(plain.inertia)
    assert kmeans.silhouette(points, start, counts.astype(float)) == pytest.approx(
        kmeans.silhouette(repeated, start)
    )


def test_fewer_different_customers_than_segments_asked_for() -> None:
    z = np.array([[0.0], [0.0], [1.0], [2.0]], np.float32)
    assert choice.choose(z, (2, 6), None, START, np.random.default_rng(0)).k in (2, 3)
    lonely = np.zeros((5, 1), np.float32)
    first = choice.choose(lonely, BOUNDS, None, START, np.random.default_rng(0))
    assert (first.k, first.scores) == (1, [])
    known = Choice(k=5, scores=[(5, 0.3)], changes=[])
    assert choice.choose(lonely, BOUNDS, known, START, np.random.default_rng(0)).k == 5


class TestDecide:
    def scores(self, **by_k: float) -> dict[int, Score]:
        return {int(k[1:]): Score(value, 0.1) for k, value in by_k.items()}

    def test_one_good_week_is_not_enough(self) -> None:
        before = Choice(k=4, scores=[(4, 0.30), (5, 0.29)], changes=[])
        week = decide(self.scores(k4=0.30, k5=0.35), before, START)
        assert week.k == 4
        assert dict(week.scores)[5] == pytest.approx(0.305)
        for _ in range(2):
            week = decide(self.scores(k4=0.30, k5=0.35), week, START)
        assert (week.k, week.changes) == (5, [ms_text(START)])

    def test_a_segment_of_a_handful_is_none(self) -> None:
        scores = {4: Score(0.3, 0.1), 5: Score(0.9, 0.019)}
        assert decide(scores, None, START).k == 4
        assert decide({5: Score(0.9, 0.01), 4: Score(0.3, 0.01)}, None, START).k == 4

    def test_bounds_that_exclude_the_present_number_change_it(self) -> None:
        before = Choice(k=3, scores=[(3, 0.9)], changes=[])
        assert decide(self.scores(k4=0.3, k5=0.4), before, START).k == 5

    @given(st.lists(st.dictionaries(st.integers(2, 8), score, min_size=1), max_size=120))
    def test_at_most_four_changes_in_any_year(self, weeks: list[dict[int, Score]]) -> None:
        """Whatever the scores; and every change is by the margin, to a k that may be chosen."""
        state: Choice | None = None
        changed: list[int] = []
        for week, scores in enumerate(weeks):
            at, before = START + week * 7 * DAY, state
            state = decide(scores, before, at)
            assert state == decide(scores, before, at)
            if before is not None and state.k != before.k:
                changed.append(at)
                smooth = dict(state.scores)
                assert state.k in scores
                if before.k in scores:
                    margin = choice.MARGIN * smooth[before.k]
                    assert smooth[state.k] - smooth[before.k] > margin
            assert sum(at - t < choice.YEAR for t in changed) <= choice.CHANGES
            assert len(state.changes) <= choice.CHANGES
