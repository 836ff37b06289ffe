"""From the panel to a version: the space, the segments, their identity."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core import kmeans
from segstream.core.calendar import DAY, instant_ms
from segstream.core.feature import Vectors
from segstream.core.hash import level_of
from segstream.core.lifecycle import told, told_retired
from segstream.core.model import Model
from segstream.core.panel import Panel, PanelSample
from segstream.core.record import Drift, ModelRecord, digest_of
from segstream.learn import Training, fit, overlap
from segstream.shell.models import model_from
from segstream.space import TrainedFeature, fit_space
from tests import retail

NAN = math.nan
PLAIN = Training((TrainedFeature("a", "a"), TrainedFeature("b", "b")), "ab", k=3)
BLOBS = [(0.0, 0.0), (10.0, 0.0), (0.0, 10.0)]


def blobs(seed: int = 1, places: list[tuple[float, float]] = BLOBS, each: int = 40) -> Panel:
    """A panel of clear clusters; customer numbers tell where each belongs."""
    rng = np.random.default_rng(seed)
    panel = Panel(2)
    for place, (a, b) in enumerate(places):
        for i in range(each):
            x = np.array([a, b]) + rng.normal(0, 0.5, 2)
            panel.put(PanelSample(0, place * 1000 + i, x.astype(np.float32)))
    return panel


def segment_of(record: ModelRecord, panel: Panel) -> dict[int, int]:
    model, customers = Model(record), panel.customers()
    distances = model.distances(model.coordinates(panel.matrix(customers)))
    return dict(zip(customers, model.ids[model.nearest(distances)].tolist(), strict=True))


def values(*rows: list[float]) -> Vectors:
    return np.array(rows, np.float32)


class TestPanel:
    def test_the_newest_sample_wins(self) -> None:
        panel = Panel(1)
        for at, value in ((5, 1.0), (7, 2.0), (6, 3.0)):
            panel.put(PanelSample(at, 1, values([value])[0]))
        assert panel.matrix().tolist() == [[2.0]]

    def test_keeps_the_levels_at_least_the_highest_seen(self) -> None:
        panel = Panel(1)
        high, low = 0x00FF << 48, 0xFF << 56
        for customer in (high, low):
            panel.put(PanelSample(1, customer, values([1.0])[0]))
        assert panel.raise_level(level_of(high)) == [low]
        assert panel.raise_level(2) == []
        assert not panel.put(PanelSample(2, low, values([1.0])[0]))
        assert panel.customers() == [high]

    def test_removes(self) -> None:
        panel = Panel(1)
        panel.put(PanelSample(1, 1, values([1.0])[0]))
        assert panel.put(PanelSample(2, 1, None))
        assert len(panel) == 0
        assert not panel.put(PanelSample(2, 1, None))

    def test_reads_in_order_of_customers(self) -> None:
        panel = Panel(1)
        for customer in (3, 1, 2):
            panel.put(PanelSample(1, customer, values([float(customer)])[0]))
        assert panel.matrix().tolist() == [[1.0], [2.0], [3.0]]


class TestSpace:
    def measure(self, feature: TrainedFeature, *column: float):  # type: ignore[no-untyped-def]
        (found,) = fit_space((feature,), values(*([x] for x in column)))
        return found

    def test_missing_becomes_the_median_of_what_is_known(self) -> None:
        found = self.measure(TrainedFeature("a", "a", clip=(0, 1)), 1.0, NAN, 3.0, 8.0)
        assert (found.fill, found.mean) == (3.0, 3.75)

    def test_missing_becomes_a_number_of_ones_own(self) -> None:
        found = self.measure(TrainedFeature("a", "a", fill=9, clip=(0, 1)), 1.0, NAN)
        assert (found.fill, found.mean, found.scale) == (9.0, 5.0, 4.0)

    def test_all_missing_is_constant(self) -> None:
        found = self.measure(TrainedFeature("a", "a"), NAN, NAN)
        assert (found.fill, found.mean, found.scale) == (0.0, 0.0, 1.0)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e9, 3e-9])
    def test_a_constant_separates_nobody(self, value: float) -> None:
        found = self.measure(TrainedFeature("a", "a", "log1p"), *[value] * 1000)
        assert found.scale == 1.0
        assert abs(found.mean - math.log1p(np.float32(value))) < 1e-9

    def test_one_millionaire_does_not_set_the_scale(self) -> None:
        found = self.measure(TrainedFeature("a", "a"), *range(1000), 1e9)
        assert found.clip[1] < 1000
        assert found.scale < 300

    def test_coordinates_have_mean_zero_and_the_weight_as_deviation(self) -> None:
        panel = blobs()
        training = replace(
            PLAIN, features=(TrainedFeature("a", "a", weight=2.0), PLAIN.features[1])
        )
        z = Model(fit(training, panel, {}, None, 0)).coordinates(panel.matrix())
        np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(z.std(axis=0), [2, 1], atol=1e-6)


class TestKMeans:
    def test_never_seeds_the_same_vector_twice(self) -> None:
        z = values([1, 1], [1, 1], [2, 2])
        for seed in range(20):
            centres = kmeans.seeds(z, 3, np.random.default_rng(seed))
            assert sorted(centres.tolist()) == [[1, 1], [2, 2]]

    def test_a_dead_centre_is_put_where_the_panel_is_served_worst(self) -> None:
        z = values([0, 0], [0, 1], [9, 9], [30, 30])
        dead = np.array([[0.0, 0.0], [9.0, 9.0], [500.0, 500.0]])
        found, origin = kmeans.complete(z, kmeans.lloyd(z, dead), 3)
        assert origin.tolist() == [0, 1, -1]
        assert sorted(found.centres.tolist()) == [[0, 0.5], [9, 9], [30, 30]]

    @given(
        st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=20),
        st.integers(1, 6),
    )
    def test_every_centre_is_the_mean_of_its_members(self, rows: list[list[float]], k: int) -> None:
        z = values(*rows)
        found = kmeans.best_of(z, k, 2, np.random.default_rng(0))
        found, _ = kmeans.complete(z, found, k)
        distinct = len({tuple(row) for row in rows})
        assert len(found.centres) <= min(k, distinct)
        assert min(k, distinct) == len(found.centres) or found.inertia == 0
        means, counts = kmeans.means(z, found.labels, len(found.centres))
        assert (counts > 0).all()
        np.testing.assert_allclose(found.centres, means, atol=1e-12)

    def test_simplified_silhouette(self) -> None:
        z, centres = values([0.0], [1.0], [10.0]), np.array([[0.0], [10.0]])
        expected = np.mean([1.0, (9 - 1) / 9, 1.0])
        assert kmeans.silhouette(z, centres) == pytest.approx(expected)
        assert kmeans.silhouette(z, centres[:1]) is None


class TestFirstVersion:
    def test_finds_the_clusters(self) -> None:
        panel = blobs()
        record = fit(PLAIN, panel, {}, None, instant_ms("2026-01-03T00:00:00Z"))
        found = segment_of(record, panel)
        assert [len({found[c] for c in found if c // 1000 == p}) for p in range(3)] == [1, 1, 1]
        assert [s.segment for s in record.segments] == [1, 2, 3]
        assert (record.model, record.parent, record.retired) == (1, None, [])
        assert record.panel.at == record.at == "2026-01-03T00:00:00.000Z"
        assert [s.size for s in record.segments] == [40, 40, 40]
        assert {s.fate.kind for s in record.segments if s.fate} == {"born"}

    def test_is_sealed_and_survives_json(self) -> None:
        record = fit(PLAIN, blobs(), {}, None, 0)
        again = ModelRecord.model_validate_json(record.model_dump_json(by_alias=True))
        assert again == record
        assert digest_of(again.model_dump(by_alias=True)) == record.digest
        assert digest_of(json.loads(record.model_dump_json(by_alias=True))) == record.digest

    def test_a_record_from_before_a_field_came_keeps_its_digest(self) -> None:
        """Readers take the digest of what was written, not of what they would write."""
        record = fit(PLAIN, blobs(), {}, None, 0)
        body = json.loads(record.model_dump_json(by_alias=True))
        for later in ("choice", "drift"):
            del body[later]
        for segment in body["segments"]:
            del segment["fate"]["overlaps"]
        body["digest"] = digest_of(body)
        assert model_from(b"1", json.dumps(body).encode()).record.drift is None
        body["at"] = "2026-01-01T00:00:00.000Z"
        with pytest.raises(ValueError, match="digest"):
            model_from(b"1", json.dumps(body).encode())

    def test_the_order_of_arrival_does_not_matter(self) -> None:
        panel, shuffled = blobs(), Panel(2)
        customers = panel.customers()
        np.random.default_rng(0).shuffle(customers)
        for c in customers:
            shuffled.put(PanelSample(0, c, panel.matrix([c])[0]))
        assert fit(PLAIN, shuffled, {}, None, 0) == fit(PLAIN, panel, {}, None, 0)

    def test_largest_segments_get_the_lowest_ids(self) -> None:
        panel = blobs()
        for i in range(100):
            panel.put(PanelSample(0, 9_000 + i, values([0, 10])[0]))
        assert fit(PLAIN, panel, {}, None, 0).segments[0].size == 140

    def test_profile_is_the_median_of_what_is_known(self) -> None:
        panel = Panel(1)
        for i, value in enumerate((0.1, 0.3, NAN)):
            panel.put(PanelSample(0, i, values([value])[0]))
        training = Training((TrainedFeature("a", "a"),), "a", k=1)
        (segment,) = fit(training, panel, {}, None, 0).segments
        assert segment.profile == {"a": 0.2}

    def test_means_and_averages_leave_out_what_is_missing(self) -> None:
        panel = Panel(1)
        for i, value in enumerate((1.0, 2.0, 9.0, NAN)):
            panel.put(PanelSample(0, i, values([value])[0]))
        training = Training((TrainedFeature("a", "a"),), "a", k=1)
        record = fit(training, panel, {}, None, 0)
        assert record.segments[0].means == {"a": 4.0}
        assert record.features[0].average == 4.0

    def test_effects_are_distances_from_the_panel_whatever_the_weights(self) -> None:
        heavy = replace(PLAIN, features=(replace(PLAIN.features[0], weight=3.0), PLAIN.features[1]))
        panel = blobs()
        record = fit(heavy, panel, {}, None, 0)
        raw = panel.matrix().astype(float)
        found = segment_of(record, panel)
        for segment in record.segments:
            own = np.array([found[c] == segment.segment for c in panel.customers()])
            clipped = np.array([np.clip(raw[:, j], *f.clip) for j, f in enumerate(record.features)])
            expected = (clipped[:, own].mean(axis=1) - clipped.mean(axis=1)) / clipped.std(axis=1)
            assert list(segment.effects.values()) == pytest.approx(expected, abs=1e-5)

    def test_with_fewer_different_customers_than_k(self) -> None:
        panel = Panel(1)
        for i in range(10):
            panel.put(PanelSample(0, i, values([float(i % 2)])[0]))
        training = Training((TrainedFeature("a", "a"),), "a", k=6)
        assert len(fit(training, panel, {}, None, 0).segments) == 2

    def test_an_empty_panel_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no customers"):
            fit(PLAIN, Panel(2), {}, None, 0)


class TestNextVersion:
    def test_the_same_panel_gives_the_same_segments(self) -> None:
        panel = blobs()
        first = fit(PLAIN, panel, {}, None, 0)
        second = fit(PLAIN, panel, segment_of(first, panel), first, 7 * DAY)
        assert (second.model, second.parent) == (2, 1)
        assert [(s.segment, s.name, s.size) for s in second.segments] == [
            (s.segment, s.name, s.size) for s in first.segments
        ]
        for a, b in zip(first.segments, second.segments, strict=True):
            assert b.centre == pytest.approx(a.centre, abs=1e-12)
            assert b.fate is not None
            assert (b.fate.kind, b.fate.parents) == ("survived", [(a.segment, 1.0)])
        assert second.quality["challenger_gap"] == pytest.approx(0, abs=1e-6)

    def test_segments_are_followed_when_the_scale_changes(self) -> None:
        """All spend ten times as much: other numbers, the same people, the same segments."""
        panel, inflated = blobs(), Panel(2)
        first = fit(PLAIN, panel, {}, None, 0)
        held = segment_of(first, panel)
        for c in panel.customers():
            inflated.put(PanelSample(1, c, panel.matrix([c])[0] * 10))
        second = fit(PLAIN, inflated, held, first, 7 * DAY)
        assert segment_of(second, inflated) == held

    def test_a_segment_without_members_is_retired_and_a_new_id_takes_its_place(self) -> None:
        panel = blobs()
        first = fit(PLAIN, panel, {}, None, 0)
        held = segment_of(first, panel)
        gone = held[2000]
        moved = blobs(places=[(0.0, 0.0), (10.0, 0.0), (30.0, 30.0)])
        # River no longer holds anybody of the third cluster; new customers are elsewhere
        known = {c: s for c, s in held.items() if s != gone}
        second = fit(PLAIN, moved, known, first, 7 * DAY)
        names = {s.segment: s.name for s in first.segments}
        assert {s.segment for s in second.segments} == {1, 2, 3, 4} - {gone}
        assert [(r.segment, r.name, r.heir) for r in second.retired] == [(gone, names[gone], None)]
        # Lloyd drew one of the two to the newcomers, and the version says so
        assert [s.fate.kind for s in second.segments if s.fate] == ["shifted", "survived", "born"]

    def test_ids_are_never_used_again(self) -> None:
        record, held = None, dict[int, int]()
        for round_ in range(4):
            panel = blobs(places=[(0.0, 0.0), (10.0, 0.0), (20.0 * (round_ + 1), 30.0)])
            record = fit(PLAIN, panel, held, record, round_)
            held = {c: s for c, s in segment_of(record, panel).items() if c < 2000}
        assert record is not None
        assert sorted(r.segment for r in record.retired) == sorted(
            {1, 2, 3, 4, 5, 6} - {s.segment for s in record.segments}
        )
        assert len(record.retired) == 3

    def test_a_better_challenger_takes_over_and_ids_follow_the_members(self) -> None:
        """River holds two clusters as one and another as two: Lloyd alone stays in that trap."""
        places = [(0.0, 0.0), (30.0, 5.0), (30.0, -5.0)]
        panel = blobs(places=places, each=60)
        first = fit(PLAIN, panel, {}, None, 0)
        trapped = {
            c: 1 if c >= 1000 else 2 + (panel.matrix([c])[0, 1] > 0)
            for c in segment_of(first, panel)
        }
        second = fit(PLAIN, panel, trapped, first, 7 * DAY)
        gap = second.quality["challenger_gap"]
        assert gap is not None
        assert gap >= PLAIN.challenger_margin
        found = segment_of(second, panel)
        assert [len({found[c] for c in found if c // 1000 == p}) for p in range(3)] == [1, 1, 1]
        kept = {s.segment for s in second.segments}
        assert 1 in kept
        assert len(kept & {2, 3}) == 1
        (retired,) = second.retired
        assert retired.heir in kept & {2, 3}
        calm = fit(replace(PLAIN, challenger_margin=1.0), panel, trapped, first, 7 * DAY)
        assert {s.segment for s in calm.segments} == {1, 2, 3}

    @pytest.mark.parametrize("k", [2, 5])
    def test_another_k_keeps_the_segments_that_remain(self, k: int) -> None:
        panel = blobs()
        first = fit(PLAIN, panel, {}, None, 0)
        second = fit(replace(PLAIN, k=k), panel, segment_of(first, panel), first, 7 * DAY)
        ids = {s.segment for s in second.segments}
        assert len(ids) == k
        assert len(ids & {1, 2, 3}) == min(k, 3)
        assert {r.segment for r in second.retired} == {1, 2, 3} - ids
        assert all(r.heir in ids for r in second.retired)

    def test_other_features_start_anew_with_new_ids(self) -> None:
        panel = blobs()
        first = fit(PLAIN, panel, {}, None, 0)
        second = fit(replace(PLAIN, features_id="other"), panel, {}, first, 7 * DAY)
        assert (second.model, second.parent) == (2, 1)
        assert [s.segment for s in second.segments] == [4, 5, 6]
        assert [r.segment for r in second.retired] == [1, 2, 3]

    def test_a_name_by_a_person_stays(self) -> None:
        panel = blobs()
        first = fit(PLAIN, panel, {}, None, 0)
        named = first.segments[0].model_copy(update={"name": "Friends", "named_by": "person"})
        parent = first.model_copy(update={"segments": [named, *first.segments[1:]]})
        second = fit(PLAIN, panel, segment_of(first, panel), parent, 7 * DAY)
        assert (second.segments[0].name, second.segments[0].named_by) == ("Friends", "person")

    def test_overlap_gives_each_old_id_once(self) -> None:
        before = np.array([7, 7, 7, 7, 9, 9, 0, 0])
        after = np.array([0, 0, 0, 1, 1, 2, 2, 3])
        assert overlap(before, after) == [7, 9, 0, 0]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-4, 4), st.integers(-4, 4)), min_size=1),
    st.sampled_from([0.0, 0.03, 1.0]),
)
def test_what_holds_of_every_version(customers: list[tuple[int, int, int]], margin: float) -> None:
    """Whatever River held: centres are the means of those nearest to them, nobody is lost."""
    panel = Panel(2)
    for i, (_, a, b) in enumerate(customers):
        panel.put(PanelSample(0, i, values([a, b])[0]))
    training = replace(PLAIN, challenger_margin=margin)
    first = fit(training, panel, {}, None, 0)
    ids = [s.segment for s in first.segments]
    held = {i: ids[s % len(ids)] for i, (s, _, _) in enumerate(customers)}
    second = fit(training, panel, held, first, 7 * DAY, first.drift)
    z, now = Model(second).coordinates(panel.matrix()), segment_of(second, panel)
    live = {s.segment for s in second.segments}
    for segment in second.segments:
        members = [i for i, found in now.items() if found == segment.segment]
        assert segment.size == len(members) > 0
        np.testing.assert_allclose(
            segment.centre, z[members].mean(axis=0, dtype=np.float64), atol=1e-12
        )
    assert sum(s.size for s in second.segments) == len(panel)
    assert live | {r.segment for r in second.retired} >= set(ids)
    assert not live & {r.segment for r in second.retired}
    gap = second.quality["challenger_gap"]
    assert gap is not None
    if gap > margin + 1e-6:  # the challenger has won: a new reference
        assert second.drift == Drift(reference=2)


class TestChoiceOfK:
    AUTO = replace(PLAIN, bounds=(2, 6))
    FIVE = (*BLOBS, (10.0, 10.0), (20.0, 20.0))

    def follow(self, record: ModelRecord, panel: Panel, at: int) -> ModelRecord:
        return fit(self.AUTO, panel, segment_of(record, panel), record, at, record.drift)

    def test_follows_the_panel_slowly_and_keeps_what_people_know(self) -> None:
        panel, five = blobs(), blobs(places=list(self.FIVE))
        record = fit(self.AUTO, panel, {}, None, 0)
        assert len(record.segments) == 3
        versions = [record]
        for week in range(1, 12):
            versions.append(self.follow(versions[-1], five, week * 7 * DAY))
        counts = [len(v.segments) for v in versions]
        assert counts[1] == 3
        assert counts[-1] == 5
        last = versions[-1]
        assert last.choice is not None
        assert 1 <= len(last.choice.changes) <= 2
        assert {s.segment for s in last.segments} & {1, 2, 3}
        assert last.drift is not None
        changed = max(i for i in range(1, 12) if counts[i] != counts[i - 1])
        assert last.drift.reference == versions[changed].model
        born = [s for s in versions[changed].segments if s.segment not in (1, 2, 3)]
        assert born
        assert all("of" in told(s) for s in born)

    def test_a_number_taken_back_tells_where_members_went(self) -> None:
        five = blobs(places=list(self.FIVE))
        record = fit(self.AUTO, five, {}, None, 0)
        narrow = replace(self.AUTO, bounds=(2, 3))
        second = fit(narrow, five, segment_of(record, five), record, 7 * DAY, record.drift)
        assert len(second.segments) <= 3
        assert len(second.retired) == 5 - len(second.segments)
        for retired in second.retired:
            assert retired.overlaps[0] == (retired.heir, 1.0)
            assert (
                told_retired(retired)
                == f"absorbed by segment {retired.heir} (100 % of its members)"
            )
        assert "merged" in {s.fate.kind for s in second.segments if s.fate}

    def test_the_scores_are_in_the_version(self) -> None:
        """A trainer that has only the panel and the parent goes on smoothing."""
        panel = blobs()
        first = fit(self.AUTO, panel, {}, None, 0)
        read = ModelRecord.model_validate_json(first.model_dump_json(by_alias=True))
        held = segment_of(first, panel)
        assert fit(self.AUTO, panel, held, read, DAY) == fit(self.AUTO, panel, held, first, DAY)

    def test_a_fixed_number_is_not_touched_by_all_that(self) -> None:
        panel = blobs()
        record = fit(PLAIN, panel, {}, None, 0)
        assert record.choice is None
        chosen = fit(self.AUTO, panel, {}, None, 0)
        assert chosen.segments == record.segments

    def test_from_a_fixed_number_to_a_chosen_one(self) -> None:
        panel = blobs(places=list(self.FIVE))
        first = fit(PLAIN, panel, {}, None, 0)
        second = self.follow(first, panel, 7 * DAY)
        assert second.choice is not None
        assert (len(second.segments), len(second.choice.changes)) == (5, 1)


@pytest.fixture(scope="module")
def year() -> list[tuple[Panel, ModelRecord]]:
    """Versions of the real panel, weeks and months apart."""
    if not retail.DATA.exists():
        pytest.skip("the preset's data are absent")
    versions: list[tuple[Panel, ModelRecord]] = []
    record, held = None, dict[int, int]()
    for day in ("2011-02-01", "2011-02-08", "2011-04-01", "2011-07-01", "2011-12-01"):
        panel = retail.panel(day)
        record = fit(retail.TRAINING, panel, held, record, instant_ms(f"{day}T00:00:00Z"))
        held = segment_of(record, panel)
        versions.append((panel, record))
    return versions


class TestRealCustomers:
    def test_all_segments_live(self, year: list[tuple[Panel, ModelRecord]]) -> None:
        for panel, record in year:
            assert len(record.segments) == 6
            sizes = [
                list(segment_of(record, panel).values()).count(s.segment) for s in record.segments
            ]
            assert sizes == [s.size for s in record.segments]
            assert min(s.share for s in record.segments) > 0.01
            assert sum(s.size for s in record.segments) == record.panel.customers == len(panel)

    def test_names_can_be_said_aloud(self, year: list[tuple[Panel, ModelRecord]]) -> None:
        for _, record in year:
            names = {s.name for s in record.segments}
            assert len(names) == 6
            assert names <= {
                "average",
                "big-basket",
                "frequent, big-spending",
                "lapsed",
                "recent",
                "refund-heavy",
                "small-basket",
            }

    def test_people_recognise_their_segments(self, year: list[tuple[Panel, ModelRecord]]) -> None:
        (_, first), *_, (_, last) = year
        before, after = ({s.segment: s.name for s in r.segments} for r in (first, last))
        assert before.keys() == after.keys()
        assert sum(before[s] == after[s] for s in before) >= 5

    def test_fits_as_well_as_starting_anew(self, year: list[tuple[Panel, ModelRecord]]) -> None:
        for panel, record in year:
            z = Model(record).coordinates(panel.matrix())
            best = kmeans.best_of(z, 6, 10, np.random.default_rng(99)).inertia / len(z)
            assert record.quality["inertia"] is not None
            assert record.quality["inertia"] <= 1.03 * best
