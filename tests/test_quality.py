"""The quality harness: its figures by brute force, and a short run from beginning to end."""

import csv
import gzip
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score  # type: ignore[import-untyped]

from benchmarks.quality import compare, report, sources
from benchmarks.quality.compare import SEEN_DAYS, UNSEEN, Detection, Switch
from benchmarks.quality.course import DataSet
from benchmarks.quality.measure import Measured, measure
from benchmarks.quality.play import Move, Play, Unusable
from benchmarks.quality.rivals import NightlyBatch, matched
from consumers.simulate import write_truth
from segstream.core import kmeans
from segstream.core.calendar import DAY
from segstream.core.model import Space
from segstream.shop import Shop
from tests.retail import TRAINING

seeds = st.integers(0, 2**32 - 1)


class TestInertia:
    @given(seeds, st.integers(2, 60), st.integers(1, 5), st.integers(1, 6))
    def test_is_the_sum_of_squares_about_the_means(self, seed: int, n: int, d: int, k: int) -> None:
        rng = np.random.default_rng(seed)
        z, labels = rng.normal(size=(n, d)), rng.integers(1, k + 1, n)
        expected = sum(
            ((z[labels == s] - z[labels == s].mean(axis=0)) ** 2).sum() for s in set(labels)
        )
        assert compare.inertia(z, labels) == pytest.approx(expected)

    def test_a_batch_against_itself_is_one(self) -> None:
        raw = np.random.default_rng(1).gamma(1.0, 50.0, (400, 6)).astype(np.float32)
        fitted, relabelled = NightlyBatch(TRAINING).fit(raw)
        z = Space(fitted.space).coordinates(raw)
        own = kmeans.squares(z, fitted.centres).min(axis=1).sum()
        assert compare.inertia(z, fitted.labels(raw)) / own == pytest.approx(1.0, abs=1e-6)
        assert relabelled == 0

    def test_the_same_batch_again_relabels_nobody(self) -> None:
        """Whatever numbers scikit-learn gives the clusters on the second night."""
        rng = np.random.default_rng(2)
        middle = rng.normal(size=(6, 6)) * 8
        raw = np.exp(middle[rng.integers(0, 6, 600)] + rng.normal(size=(600, 6)) / 9)
        batch = NightlyBatch(TRAINING)
        first, _ = batch.fit(raw.astype(np.float32))
        before = first.labels(raw.astype(np.float32))
        batch.seed = 77
        second, relabelled = batch.fit(raw.astype(np.float32))
        assert relabelled == 0
        assert (second.labels(raw.astype(np.float32)) == before).all()
        assert adjusted_rand_score(before, second.labels(raw.astype(np.float32))) == 1.0


@given(seeds, st.integers(1, 5), st.integers(1, 40))
def test_hungarian_ids_keep_as_many_as_any_assignment_can(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    before, after = rng.integers(0, k, n), rng.integers(0, k, n)
    ids = matched(before, after, k)
    assert sorted(ids.tolist()) == list(range(k))
    best = max((np.array(p)[after] == before).sum() for p in permutations(range(k)))
    assert (ids[after] == before).sum() == best


moves = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 40)), max_size=25)


@given(moves)
def test_flaps_by_brute_force(steps: list[tuple[int, int, int]]) -> None:
    """Of each customer's segments in order: X, Y, X again, and at most 30 days in Y."""
    now, lists, found = 0, {c: [(0, 0)] for c in range(3)}, []
    for customer, to, gap in steps:
        now += gap * DAY
        at = lists[customer][-1][1]
        if to != at:
            found.append(Move(f"c{customer}", now, at, to, "time"))
            lists[customer].append((now, to))
    expected = sum(
        first[1] == third[1] != 0 != second[1] and third[0] - second[0] <= 30 * DAY
        for course in lists.values()
        for first, second, third in zip(course, course[1:], course[2:], strict=False)
    )
    assert compare.flaps(found) == expected


class TestSwitches:
    def test_are_found_between_known_personas(self) -> None:
        personas = np.array([[-1, 0], [1, 0], [2, 0], [2, -1], [2, 1]])
        assert compare.switches(personas) == [Switch(2, 0, 1, 2)]

    def test_settled_after_so_many_days_of_the_same(self) -> None:
        personas = np.array([[0], [0], [0], [1], [1], [1]])
        assert compare.settled(personas, 2)[:, 0].tolist() == [
            False,
            False,
            True,
            False,
            False,
            True,
        ]

    def test_typical_shares(self) -> None:
        personas = np.zeros((101, 2), np.int64)
        labels = np.full((101, 2), 1)
        labels[95:, 1] = 2
        found = compare.typical(labels, personas)
        assert found == {0: {1: pytest.approx(16 / 22), 2: pytest.approx(6 / 22)}}

    def test_seen_already_there_or_not_at_all(self) -> None:
        shares = {0: {1: 0.8, 2: 0.2}, 1: {1: 0.3, 2: 0.7}}
        labels = np.ones((SEEN_DAYS + 20, 4), np.int64)
        labels[15:, 0] = 2  # switched on day 10: seen after 5 days
        labels[:, 1] = 2  # was there before
        labels[12:14, 2] = 3  # a segment that is nobody's
        found = [Switch(10, c, 0, 1) for c in range(4)] + [Switch(19, 3, 0, 1)]
        seen = compare.detect(labels, found, shares)
        assert seen.days.tolist() == [5, 0, UNSEEN, UNSEEN, UNSEEN]
        assert seen.share == 1 / 4
        late = compare.detect(labels, [Switch(20, 0, 0, 1)], shares)  # not enough days left
        assert late.days.tolist() == [-1]
        assert late.share is None
        before = compare.detect(labels, found[:1], shares, shift=-8)
        assert before.days.tolist() == [13]

    def test_delay_is_of_those_that_both_could_see(self) -> None:
        filtered = Detection(np.array([4, UNSEEN, 10, 0, 50, -1]))
        plain = Detection(np.array([1, 2, 9, 7, 0, -1]))
        assert compare.delay(filtered, plain) == 10 - 2
        assert compare.delay(Detection(np.array([0])), Detection(np.array([1]))) is None


def test_names() -> None:
    versions = [{1: "a", 2: "b"}, {1: "a", 2: "c"}, {1: "a", 3: "a"}]
    assert compare.renamed(versions) == (1, 3)
    assert compare.unique_share(versions) == pytest.approx(4 / 6)


def test_truth_at_an_instant() -> None:
    truth = {"x": [(10, 0), (20, 1)], "y": [(15, 1)]}
    assert compare.truth_at(truth, ["x", "y", "z"], 9).tolist() == [-1, -1, -1]
    assert compare.truth_at(truth, ["x", "y", "z"], 15).tolist() == [0, 1, -1]
    assert compare.truth_at(truth, ["x", "y", "z"], 20).tolist() == [1, 1, -1]


# --- from beginning to end ------------------------------------------------------------------

CUSTOMERS, DAYS = 300, 120
CONFIG = """
preset = "retail"
[training]
segments = 4
first_customers = 100
"""
START = 19_700 * DAY


def test_the_truth_that_simulate_writes_is_read(tmp_path: Path) -> None:
    shop = Shop(customers=40, days=30, seed=3)
    write_truth(shop, tmp_path / "truth.csv")
    truth, labels = sources.read_truth(tmp_path / "truth.csv")
    assert (truth, labels) == sources.coded(
        (s.customer, s.since_ms, s.persona) for s in shop.stays()
    )


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("c-1,2024-01-01,x", "has no offset"),
        ("c-1,x", "not enough values"),
        ("c-1,soon,x", "soon"),
    ],
)
def test_a_truth_that_cannot_be_read_names_the_line(tmp_path: Path, line: str, what: str) -> None:
    (tmp_path / "truth.csv").write_text(f"customer,since,label\nc-0,0,x\n{line}\n")
    with pytest.raises(Unusable, match=f"line 3: .*{what}"):
        sources.read_truth(tmp_path / "truth.csv")


def stream(folder: Path) -> DataSet:
    """Three kinds of customers, some of whom become another kind on day 60."""
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 3, CUSTOMERS)
    then = np.where(rng.random(CUSTOMERS) < 0.3, (kind + 1) % 3, kind)
    rate, amount = np.array([0.25, 0.06, 0.02]), np.array([20.0, 200.0, 60.0])
    lines, truth = [], []
    for c in range(CUSTOMERS):
        truth.append((f"u-{c}", str(START), f"kind {kind[c]}"))
        if then[c] != kind[c]:
            truth.append((f"u-{c}", "2024-02-07T00:00:00Z", f"kind {then[c]}"))
        for day in range(DAYS):
            now = kind[c] if day < 60 else then[c]
            if rng.random() < rate[now]:
                at = START + day * DAY + int(rng.integers(0, DAY))
                total = float(round(amount[now] * rng.lognormal(), 2))
                lines.append((at, f"u-{c}", total))
    rng.shuffle(lines)
    with gzip.open(folder / "calls.jsonl.gz", "wt") as file:
        for n, (at, who, total) in enumerate(lines):
            time = str(np.datetime64(int(float(at)), "ms")) + "Z"
            call = {"type": "track", "event": "Order Completed", "userId": who, "messageId": f"{n}"}
            file.write(
                json.dumps({**call, "timestamp": time, "properties": {"total": float(total)}})
            )
            file.write("\n")
    with (folder / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("customer", "since", "label"), *truth])
    (folder / "segstream.toml").write_text(CONFIG)
    truths, config = folder / "truth.csv", folder / "segstream.toml"
    return sources.of_file(folder / "calls.jsonl.gz", truth=truths, config=config)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return stream(tmp_path_factory.mktemp("quality"))


@pytest.fixture(scope="module")
def measured(data: DataSet) -> Measured:
    return measure(data, tell=print)


class TestRun:
    def test_holds_together(self, data: DataSet, measured: Measured) -> None:
        figures, nights = measured.early, measured.nights
        assert data.labels == ("kind 0", "kind 1", "kind 2")
        assert data.training.k == 4
        assert figures["nights"] == len(nights["at"]) > 100
        assert figures["customers"] == CUSTOMERS - 300 + max(nights["customers"])
        assert 0.99 < figures["inertia_model"] <= figures["inertia_model_p95"] < 1.3
        assert figures["inertia_emitted"] > figures["inertia_model"] - 0.01
        assert figures["inertia_river"] > 1.1
        assert 0.2 < figures["ari_truth_batch"] <= 1
        assert figures["ari_share_model"] > 0.8
        assert figures["switches"] + figures["switches_already"] == 0  # 60 days left, not 100
        assert figures["number_first"] >= figures["customers"]
        assert figures["names_unique"] == 1.0
        assert measured.figures["nights"] == DAYS - 90
        for night in range(len(nights["at"])):
            total = sum(share[night] for share in measured.shares.values())
            assert total == pytest.approx(1.0)

    def test_is_deterministic(self, data: DataSet, measured: Measured) -> None:
        again = measure(data, days=60, tell=print)
        assert len(again.nights["at"]) > 50
        for column, values in again.nights.items():
            assert values == measured.nights[column][: len(values)]

    def test_is_written_down(self, data: DataSet, measured: Measured, tmp_path: Path) -> None:
        report.write([(data, measured)], tmp_path, "make quality", {"quick": True})
        page = (tmp_path / "quality.md").read_text()
        found = json.loads((tmp_path / "quality.json").read_text())
        assert (tmp_path / "quality" / "calls.png").stat().st_size > 10_000
        assert found["missed"] == report.missed([(data, measured)])
        assert all(f"- {line}" in page for line in found["missed"])
        for key in ("inertia_model", "flaps"):
            written = found["data"]["calls"]["figures"][key]
            assert written == pytest.approx(measured.figures[key], abs=1e-6)

    def test_vectors_after_events_are_in_log_order(self, data: DataSet) -> None:
        """The last event of a customer on a day leaves the orders that the midnight shows."""
        play = Play(data.definition, data.training)
        orders = list(data.definition.columns()).index("orders")
        events = 0
        for night in play.nights(data.calls(), 40):
            events += len(night.seen)
            one = len(night.seen) == 1
            if one and events == 1:
                assert night.seen[0, orders] == night.raw[0, orders] == 1
        assert events == play.events


def test_what_misses_is_said() -> None:
    figures = {"inertia_model": 1.02, "flaps": None}
    by_key = {target.key: target for target in report.TARGETS}
    assert by_key["inertia_model"].missed(figures)
    assert not by_key["inertia_model_p95"].missed(figures)  # not measured
    assert not by_key["flaps"].missed(figures)
    assert by_key["switches_seen"].missed({**figures, "switches_seen": 0.89})


@given(seeds, st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))
def test_ari_is_that_of_scikit_learn(seed: int, n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, k, n), rng.integers(0, m, n)
    assert compare.adjusted_rand(a, b) == pytest.approx(adjusted_rand_score(a, b))
    assert compare.adjusted_rand(a, rng.permutation(k)[a]) == pytest.approx(1.0)
