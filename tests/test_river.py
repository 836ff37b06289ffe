"""River's K-Means, learning customers by replacement."""

import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river import cluster

from segstream.shell.river import CustomerKMeans

CENTRES = {2: [0.0, 0.0, 0.0], 5: [1.0, -1.0, 0.5], 9: [-2.0, 1.0, 1.0]}
#: River's own methods; it does not type them
PREDICT: Callable[[cluster.KMeans, dict[Any, float]], int] = cluster.KMeans.predict_one
LEARN: Callable[[cluster.KMeans, dict[Any, float]], None] = cluster.KMeans.learn_one
coordinate = st.floats(-20, 20, width=32)
vector = st.tuples(coordinate, coordinate, coordinate)


def member_means(
    model: CustomerKMeans, vectors: dict[int, tuple[float, ...]]
) -> dict[int, tuple[float, ...]]:
    """Exact means, by segment, of the newest vectors of each segment's members."""
    labels = model.labels()
    members = {s: [vectors[c] for c in vectors if labels[c] == s] for s in model.centers}
    return {
        s: tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True))
        for s, rows in members.items()
        if rows
    }


@given(
    st.lists(
        st.tuples(
            st.integers(0, 12), st.none() | vector, st.none() | st.sampled_from(sorted(CENTRES))
        ),
        max_size=120,
    )
)
def test_centres_are_the_means_of_their_members(
    steps: list[tuple[int, tuple[float, ...] | None, int | None]],
) -> None:
    """After any sequence of learning, being placed and being forgotten."""
    model = CustomerKMeans(CENTRES)
    newest: dict[int, tuple[float, ...]] = {}
    for customer, x, told in steps:
        if x is None:
            assert model.forget_customer(customer) == (customer in newest)
            newest.pop(customer, None)
        elif told is not None:
            assert model.place_customer(customer, x, told) == told
            newest[customer] = x
        else:
            assert model.learn_customer(customer, x) in CENTRES
            newest[customer] = x
    assert len(model) == len(newest) == sum(model.sizes.values())
    for segment, mean in member_means(model, newest).items():
        assert model.centre(segment) == pytest.approx(mean, abs=1e-12)


def test_centres_stay_exact_over_many_replacements() -> None:
    rng = random.Random(1)
    model = CustomerKMeans(CENTRES)
    newest = {}
    for _ in range(50_000):
        customer = rng.randrange(500)
        newest[customer] = tuple(rng.gauss(0, 1) for _ in range(3))
        model.learn_customer(customer, newest[customer])
    for segment, mean in member_means(model, newest).items():
        assert model.centre(segment) == pytest.approx(mean, abs=1e-12)


@given(st.lists(vector, min_size=1, max_size=30))
def test_decides_as_river_does(vectors: list[tuple[float, ...]]) -> None:
    model = CustomerKMeans(CENTRES)
    for customer, x in enumerate(vectors):
        expected = PREDICT(model, dict(enumerate(x)))
        assert model.nearest(x) == expected
        assert model.learn_customer(customer, x) == expected


def test_of_equally_near_centres_the_lowest_id_wins() -> None:
    model = CustomerKMeans({7: [1.0], 3: [-1.0], 4: [1.0]})
    assert (model.nearest([0.0]), model.nearest([1.0])) == (3, 4)


def test_steps_are_those_of_river() -> None:
    """Inserting is River's own learning step with the rate 1/n."""
    ours, rivers = CustomerKMeans(CENTRES), CustomerKMeans(CENTRES)
    rng = random.Random(2)
    for customer in range(200):
        x = [rng.gauss(0, 1) for _ in range(3)]
        segment = ours.learn_customer(customer, x)
        rivers.halflife = 1 / ours.sizes[segment]
        LEARN(rivers, dict(enumerate(x)))
    assert {s: ours.centre(s) for s in CENTRES} == {s: rivers.centre(s) for s in CENTRES}


def test_an_emptied_centre_stays_and_takes_the_next_member_whole() -> None:
    model = CustomerKMeans(CENTRES)
    model.learn_customer(1, [1.5, -1.5, 0.5])
    model.forget_customer(1)
    assert model.centre(5) == (1.5, -1.5, 0.5)
    model.learn_customer(2, [1.0, -1.25, 0.25])
    assert model.centre(5) == (1.0, -1.25, 0.25)


def test_places_members_where_it_is_told() -> None:
    model = CustomerKMeans(CENTRES)
    model.place_customer(1, [50.0, 50.0, 50.0], 2)
    model.place_customer(2, [52.0, 50.0, 50.0], 2)
    assert model.labels() == {1: 2, 2: 2}
    assert model.centre(2) == (51.0, 50.0, 50.0)


@pytest.mark.parametrize("x", [[math.nan, 0, 0], [math.inf, 0, 0], [0, 0], [0, 0, 0, 0]], ids=str)
def test_refuses_what_would_poison_it(x: list[float]) -> None:
    model = CustomerKMeans(CENTRES)
    model.learn_customer(1, [0.1, 0.1, 0.1])
    with pytest.raises(ValueError, match="3 finite numbers"):
        model.learn_customer(1, x)
    assert model.labels() == {1: 2}
    assert model.centre(2) == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("centres", [{}, {1: [1.0], 2: [1.0, 2.0]}, {1: [math.nan]}])
def test_refuses_centres_that_are_none(centres: dict[int, list[float]]) -> None:
    with pytest.raises(ValueError, match=r"centres|finite"):
        CustomerKMeans(centres)


class TestTrapsOfRiver:
    """If one of these fails, River has changed: the subclass may become simpler."""

    def test_predicting_draws_missing_coordinates(self) -> None:
        model = cluster.KMeans(n_clusters=1, seed=1)
        PREDICT(model, {"unseen": 0.0})
        assert model.centers[0]["unseen"] != 0.0

    def test_one_nan_poisons_a_centre(self) -> None:
        model = cluster.KMeans(n_clusters=1, seed=1)
        LEARN(model, {0: math.nan})
        LEARN(model, {0: 1.0})
        assert math.isnan(model.centers[0][0])

    def test_integer_keys_are_summed_in_ascending_order(self) -> None:
        keys = [*range(24)]
        random.Random(3).shuffle(keys)
        assert list({*keys, *range(24)}) == sorted(keys)


def test_is_the_same_in_every_process() -> None:
    """The hash seed changes the order of sets of text; nothing here may depend on it."""
    program = """
import random
from segstream.shell.river import CustomerKMeans
rng = random.Random(4)
model = CustomerKMeans({i: [rng.gauss(0, 1) for _ in range(6)] for i in range(1, 5)})
for _ in range(2000):
    model.learn_customer(rng.randrange(300), [rng.gauss(0, 1) for _ in range(6)])
print([[x.hex() for x in model.centre(i)] for i in model.centers])
"""
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_matches_a_numpy_twin() -> None:
    """Members and centres as recomputed from all vectors at every step."""
    rng = np.random.default_rng(5)
    model = CustomerKMeans(CENTRES)
    newest: dict[int, np.ndarray] = {}
    for customer in rng.integers(0, 40, 400).tolist():
        x = rng.normal(size=3)
        model.learn_customer(customer, x.tolist())
        newest[customer] = x
        labels = model.labels()
        for segment in CENTRES:
            members = [newest[c] for c in newest if labels[c] == segment]
            if members:
                np.testing.assert_allclose(model.centre(segment), np.mean(members, 0), atol=1e-12)
