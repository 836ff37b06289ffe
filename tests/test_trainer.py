"""The trainer's loop on in-memory topics: order of learning, publication, recovery."""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segstream.core.calendar import DAY, Calendar, instant_ms
from segstream.core.hash import customer_hash, level_of
from segstream.core.output import ms_text
from segstream.core.panel import PanelSample
from segstream.core.record import ModelRecord
from segstream.learn import Training
from segstream.shell.river import CustomerKMeans
from segstream.space import TrainedFeature
from segstream.testing.trainer import Fault, MemoryTopics, Notes, memory_ports
from segstream.trainer import Trainer

Message = tuple[bytes | None, bytes | None]

PARTITIONS = 3
START = instant_ms("2026-01-01T00:00:00Z")
TRAINING = Training(
    (
        TrainedFeature("recency", "recency(orders)", "log1p", 90.0, low="recent", high="lapsed"),
        TrainedFeature("spend", "spend[90d]", "log1p", low="", high="big-spending"),
    ),
    "two",
    k=3,
    first_customers=30,
)


def key_of(customer: int) -> bytes:
    return b"%016x" % customer_hash(f"u-{customer}")


def sample(customer: int, at: int, values: list[float | None], level: int = 0) -> Message:
    body = {
        "partition": customer % PARTITIONS,
        "level": level,
        "at": ms_text(at),
        "features": "two",
        "values": values,
    }
    return key_of(customer), json.dumps(body).encode()


def marker(partition: int, day: int) -> Message:
    body = {"partition": partition, "partitions": PARTITIONS, "day": ms_text(day)}
    return b"day-%d" % partition, json.dumps(body).encode()


def altered(message: Message, old: bytes, new: bytes) -> Message:
    key, value = message
    assert value is not None
    assert old in value
    return key, value.replace(old, new)


def is_marker(message: Message) -> bool:
    return message[0] is not None and message[0].startswith(b"day-")


def lives(days: int, customers: int = 45, seed: int = 1) -> list[list[list[Message]]]:
    """Records by day and partition: each customer's tick at its minute, then the marker.

    Two thirds of the customers lapse at different times; one is forgotten and comes back.
    """
    rng = random.Random(seed)
    minutes = [rng.randrange(1, 1440) for _ in range(customers)]
    found = []
    for day in range(days):
        parts: list[list[Message]] = [[] for _ in range(PARTITIONS)]
        for customer in sorted(range(customers), key=lambda c: minutes[c]):
            at = START + day * DAY + minutes[customer] * 60_000
            silent = max(0, day - customer) if customer % 3 else day % 4
            spend = None if silent > 20 else rng.lognormvariate(customer % 5, 0.3)
            record = sample(customer, at, [float(silent), spend])
            if customer == 4 and day in (10, 11, 12):
                record = (key_of(customer), None)
            parts[customer % PARTITIONS].append(record)
        for partition in range(PARTITIONS):
            parts[partition].append(marker(partition, START + (day + 1) * DAY))
        found.append(parts)
    return found


def interleaved(days: list[list[list[Message]]], seed: int) -> list[Message]:
    """The partitions' records in one topic: each in its order, at most about a day apart."""
    rng = random.Random(seed)
    queues = [[record for day in days for record in day[p]] for p in range(PARTITIONS)]
    ends = [[len(day[p]) for day in days] for p in range(PARTITIONS)]
    done, day_of, topic = [0] * PARTITIONS, [0] * PARTITIONS, []
    while any(done[p] < len(queues[p]) for p in range(PARTITIONS)):
        slowest = min(day_of[p] for p in range(PARTITIONS) if done[p] < len(queues[p]))
        ready = [
            p for p in range(PARTITIONS) if done[p] < len(queues[p]) and day_of[p] <= slowest + 1
        ]
        p = rng.choice(ready)
        topic.append(queues[p][done[p]])
        done[p] += 1
        if done[p] == sum(ends[p][: day_of[p] + 1]):
            day_of[p] += 1
    return topic


def trainer_of(
    topics: MemoryTopics, limit: int = 50, training: Training = TRAINING
) -> tuple[Trainer, Notes]:
    """A trainer that owns the partition."""
    notes = Notes()
    ports, samples = memory_ports(topics, CustomerKMeans, notes, limit)
    topics.assign(samples)
    return Trainer(training, ports), notes


def work(trainer: Trainer, topics: MemoryTopics) -> None:
    """Until the end of the topic is committed."""
    for _ in range(10_000):
        trainer.turn()
        if topics.committed == len(topics.samples) and trainer.study is not None:
            return
    raise AssertionError("the trainer does not come to an end")


def trained(
    messages: list[Message], limit: int = 50, training: Training = TRAINING
) -> MemoryTopics:
    topics = MemoryTopics()
    topics.samples = list(messages)
    trainer, _ = trainer_of(topics, limit, training)
    work(trainer, topics)
    return topics


@pytest.fixture(scope="module")
def days() -> list[list[list[Message]]]:
    return lives(25)


@pytest.fixture(scope="module")
def messages(days: list[list[list[Message]]]) -> list[Message]:
    return interleaved(days, 0)


@pytest.fixture(scope="module")
def versions(messages: list[Message]) -> dict[int, ModelRecord]:
    return trained(messages).versions


def midnights(versions: dict[int, ModelRecord]) -> list[int]:
    """Days since the start on which versions were made."""
    return [(instant_ms(r.at) - START) // DAY for r in versions.values()]


class TestWhen:
    def test_first_after_a_day_then_weekly(self, versions: dict[int, ModelRecord]) -> None:
        # the first sample is of the morning of day 0: a day has passed at the second midnight
        assert midnights(versions) == [2, 9, 16, 23]
        assert [r.parent for r in versions.values()] == [None, 1, 2, 3]

    def test_not_before_there_are_enough_customers(self, messages: list[Message]) -> None:
        assert trained(messages, training=replace(TRAINING, first_customers=46)).versions == {}

    def test_again_when_the_panel_has_grown(self) -> None:
        grown = []
        for day, parts in enumerate(lives(8, customers=130)):
            size = 35 if day < 3 else 65 if day < 5 else 130
            known = {key_of(c) for c in range(size)}
            grown.append([[m for m in p if m[0] in known or is_marker(m)] for p in parts])
        found = trained(interleaved(grown, 0)).versions
        assert midnights(found) == [2, 4, 6]
        assert [r.panel.customers for r in found.values()] == [35, 65, 130]

    def test_days_without_samples_teach_nothing(self, days: list[list[list[Message]]]) -> None:
        """A clock that jumps over months does not bring a version for each week of them."""
        silence = [
            [[marker(p, START + day * DAY)] for p in range(PARTITIONS)] for day in range(4, 200)
        ]
        assert midnights(trained(interleaved([*days[:3], *silence], 0)).versions) == [2]

    def test_a_panel_that_is_all_but_gone_teaches_nothing(
        self, days: list[list[list[Message]]]
    ) -> None:
        gone = [[(key_of(c), None) for c in range(4, 45) if c % PARTITIONS == p] for p in range(3)]
        ends = [[*gone[p], marker(p, START + 4 * DAY)] for p in range(PARTITIONS)]
        few = [
            [
                [m for m in part if m[0] in {key_of(c) for c in range(4)} or is_marker(m)]
                for part in day
            ]
            for day in days[4:]
        ]
        assert midnights(trained(interleaved([*days[:3], ends, *few], 0)).versions) == [2]


class TestOrder:
    @given(st.integers(1, 10_000), st.sampled_from([1, 7, 50, 5_000]))
    @settings(max_examples=8, deadline=None)
    def test_any_order_of_arrival_gives_the_same_versions(self, seed: int, limit: int) -> None:
        days = lives(12)
        assert (
            trained(interleaved(days, seed), limit).versions
            == trained(interleaved(days, 0)).versions
        )

    def test_a_partition_far_behind_does_not_hold_the_rest(
        self, days: list[list[list[Message]]]
    ) -> None:
        silent = [[part if p else [] for p, part in enumerate(day)] for day in days]
        training = replace(TRAINING, first_customers=20)
        found = trained(interleaved(silent, 0), training=training).versions
        assert midnights(found) == [2, 9, 16, 23]

    def test_what_a_late_partition_sends_is_learned_with_the_next_day(self) -> None:
        calendar = Calendar()
        early, late = (PanelSample(at, 1, None) for at in (5 * DAY, 2 * DAY))
        calendar.sample(0, early)
        calendar.mark(0, 1, 5 * DAY)
        assert calendar.close() == [(5 * DAY, [early])]
        calendar.sample(0, late)
        assert calendar.close() == []
        calendar.mark(0, 1, 6 * DAY)
        assert calendar.close() == [(6 * DAY, [late])]

    def test_the_watermark_is_that_of_the_slowest(self) -> None:
        calendar = Calendar()
        assert calendar.watermark() == 0
        for partition, day in ((0, 10), (1, 8), (2, 9)):
            assert calendar.watermark() == 0
            calendar.mark(partition, 3, day * DAY)
        assert calendar.watermark() == 8 * DAY
        calendar.mark(0, 3, 11 * DAY)
        assert calendar.watermark() == 9 * DAY
        calendar.mark(1, 3, 7 * DAY)  # a repeat of an older one changes nothing
        assert calendar.watermark() == 9 * DAY

    def test_a_partition_that_never_marks_holds_the_rest_for_two_days(self) -> None:
        calendar = Calendar()
        for day, expected in ((10, 0), (12, 0), (13, 13)):
            calendar.mark(0, 2, day * DAY)
            assert calendar.watermark() == expected * DAY


class TestRemoval:
    def run(self, *messages: Message) -> list[float]:
        """What the customers in the panel spend, after all that."""
        topics = MemoryTopics()
        topics.samples = list(messages)
        trainer, _ = trainer_of(topics, 1)
        work(trainer, topics)
        assert trainer.study is not None
        spends: list[float] = trainer.study.panel.matrix()[:, 1].tolist()
        return spends

    def ends(self, day: int) -> list[Message]:
        return [marker(p, START + day * DAY) for p in range(PARTITIONS)]

    def test_takes_the_customer_out_when_its_day_ends(self) -> None:
        known = [sample(1, START + 1, [1, 1]), sample(2, START + 2, [1, 2]), *self.ends(1)]
        later = sample(2, START + DAY + 2, [1, 3])
        assert sorted(self.run(*known)) == [1, 2]
        assert sorted(self.run(*known, (key_of(1), None), later)) == [1, 2]
        assert sorted(self.run(*known, (key_of(1), None), later, *self.ends(2))) == [3]

    def test_counts_even_if_it_is_all_that_happened_on_a_day(self) -> None:
        known = [sample(1, START + 1, [1, 1]), sample(2, START + 2, [1, 2]), *self.ends(1)]
        assert self.run(*known, (key_of(1), None), *self.ends(2)) == [2]

    def test_the_customer_may_come_back_the_same_day(self) -> None:
        first = sample(1, START + 1, [1, 1])
        again = sample(1, START + DAY + 120_000, [0, 7])
        last = sample(2, START + DAY + 180_000, [0, 0])
        found = self.run(first, *self.ends(1), (key_of(1), None), again, last, *self.ends(2))
        assert sorted(found) == [0, 7]

    def test_within_its_first_day(self) -> None:
        first, last = sample(1, START + 60_000, [1, 1]), sample(2, START + 180_000, [0, 0])
        assert self.run(first, (key_of(1), None), last, *self.ends(1)) == [0]

    def test_of_a_customer_unknown_is_nothing(self) -> None:
        assert self.run((key_of(1), None), sample(2, START, [0, 0]), *self.ends(1)) == [0]


class TestLevels:
    def test_the_panel_follows_the_highest_level(self, days: list[list[list[Message]]]) -> None:
        topics = MemoryTopics()
        topics.samples = interleaved(days[:3], 0)
        trainer, _ = trainer_of(topics)
        work(trainer, topics)
        assert trainer.study is not None
        assert len(trainer.study.panel) == 45
        one = next(c for c in range(45) if level_of(customer_hash(f"u-{c}")) >= 2)
        topics.samples.append(sample(one, START + 3 * DAY + 1, [0, 1], level=2))
        topics.samples += [marker(p, START + 4 * DAY) for p in range(PARTITIONS)]
        work(trainer, topics)
        kept = trainer.study.panel.customers()
        assert kept == sorted(h for c in range(45) if level_of(h := customer_hash(f"u-{c}")) >= 2)


class TestRecovery:
    @pytest.mark.parametrize("cut", [0.05, 0.3, 0.5, 0.65, 0.9, 1.0])
    def test_a_successor_goes_on_as_if_nothing_had_happened(
        self, messages: list[Message], versions: dict[int, ModelRecord], cut: float
    ) -> None:
        topics = MemoryTopics()
        topics.samples = messages[: int(cut * len(messages))]
        work(trainer_of(topics)[0], topics)
        before = list(topics.versions)
        topics.samples = list(messages)
        successor, notes = trainer_of(topics)
        work(successor, topics)
        assert topics.versions == versions
        assert notes.versions == [v for v in versions if v not in before]
        # the newest is announced again, then each new one
        assert topics.announced == [*before, *before[-1:], *notes.versions]

    @pytest.mark.parametrize("fault", ["refused", "lost", "committed", "announce"])
    def test_any_failure_is_answered_by_claiming_again(
        self, messages: list[Message], versions: dict[int, ModelRecord], fault: Fault
    ) -> None:
        topics = MemoryTopics()
        topics.samples = list(messages)
        topics.faults = [fault, fault]
        trainer, notes = trainer_of(topics)
        work(trainer, topics)
        assert topics.versions == versions
        assert set(topics.announced) == set(versions)
        assert topics.faults == []
        assert fault in " ".join(notes.forgotten)

    def test_after_compaction_it_goes_on_from_the_newest_version(
        self, messages: list[Message], versions: dict[int, ModelRecord]
    ) -> None:
        """Not the same bytes, as samples are gone, but the same segments, fitting as well."""
        cut = int(0.8 * len(messages))
        topics = MemoryTopics()
        topics.samples = messages[:cut]
        work(trainer_of(topics)[0], topics)
        newest = {key: i for i, (key, _) in enumerate(topics.samples)}
        topics.samples = [messages[i] for i in sorted(newest.values())] + messages[cut:]
        topics.committed = -1
        work(trainer_of(topics)[0], topics)
        assert midnights(topics.versions) == midnights(versions)
        last, expected = topics.versions[4], versions[4]
        assert last.panel == expected.panel
        assert [(s.segment, s.name) for s in last.segments] == [
            (s.segment, s.name) for s in expected.segments
        ]
        assert last.quality["inertia"] == pytest.approx(expected.quality["inertia"], rel=0.03)

    def test_at_any_time_river_holds_the_exact_means(self, messages: list[Message]) -> None:
        topics = MemoryTopics()
        topics.samples = messages[: int(0.6 * len(messages))]
        trainer, _ = trainer_of(topics)
        work(trainer, topics)
        study = trainer.study
        assert study is not None
        river, model = study._clusterer, study._model
        assert isinstance(river, CustomerKMeans)
        assert model is not None
        customers = study.panel.customers()
        assert sorted(river.labels()) == customers
        z = model.coordinates(study.panel.matrix()).astype(float)
        for segment in river.centers:
            members = [i for i, c in enumerate(customers) if river.labels()[c] == segment]
            assert river.centre(segment) == pytest.approx(z[members].mean(axis=0), abs=1e-12)


def moving(days: int, moved: int) -> list[list[list[Message]]]:
    """Customers in three calm places; on day `moved` a third of them go somewhere else."""
    rng = random.Random(5)
    found = []
    for day in range(days):
        parts: list[list[Message]] = [[] for _ in range(PARTITIONS)]
        for customer in range(60):
            kind = 3 if customer % 3 == 2 and day >= moved else customer % 3
            recency, spend = ((2.0, 50.0), (40.0, 0.0), (3.0, 900.0), (80.0, 9_000.0))[kind]
            at = START + day * DAY + (customer + 1) * 60_000
            values: list[float | None] = [recency, spend * rng.uniform(0.9, 1.1)]
            parts[customer % PARTITIONS].append(sample(customer, at, values))
        for partition in range(PARTITIONS):
            parts[partition].append(marker(partition, START + (day + 1) * DAY))
        found.append(parts)
    return found


def with_window(training: Training, window: str) -> Training:
    """The same features over another window."""
    recency, spend = training.features
    short = replace(spend, expression=f"spend[{window}]")
    return replace(training, features=(recency, short))


class TestWorthTelling:
    """A version that would move hardly anybody is not published until the newest one is old."""

    LIVES = interleaved(lives(24), 3)  # later ones drift
    OFTEN = replace(with_window(TRAINING, "2d"), maintain_days=2, challenger_margin=1.0)

    def published(self, moved: float) -> list[int]:
        return midnights(trained(self.LIVES, training=replace(self.OFTEN, moved=moved)).versions)

    def test_all_are_published_if_no_share_is_asked_for(self) -> None:
        assert self.published(0) == list(range(2, 25, 2))

    def test_only_old_ones_are_followed_if_no_share_is_enough(self) -> None:
        # The second is the first whose reference for drift is not of a filling window.
        assert self.published(1.01) == [2, 4, 12, 20]

    def test_in_between_it_is_when_so_many_customers_move(self) -> None:
        training = replace(self.OFTEN, moved=0.1)
        found = trained(self.LIVES, training=training).versions
        assert len(self.published(1.01)) < len(found) < len(self.published(0))
        assert all((day - 2) % 2 == 0 for day in midnights(found))

    @pytest.mark.parametrize("cut", [0.3, 0.55, 0.8])
    def test_a_successor_makes_the_same_versions(self, cut: float) -> None:
        training = replace(self.OFTEN, moved=0.1)
        topics = MemoryTopics()
        topics.samples = self.LIVES[: int(cut * len(self.LIVES))]
        work(trainer_of(topics, training=training)[0], topics)
        topics.samples = list(self.LIVES)
        work(trainer_of(topics, training=training)[0], topics)
        assert topics.versions == trained(self.LIVES, training=training).versions


#: drift shows best where nothing else brings versions
CALM = replace(with_window(TRAINING, "14d"), challenger_margin=1.0, maintain_days=28, moved=0)
MOVED, DAYS = 60, 95


@pytest.fixture(scope="module")
def log() -> list[Message]:
    return interleaved(moving(DAYS, MOVED), 0)


@pytest.fixture(scope="module")
def drifted(log: list[Message]) -> dict[int, ModelRecord]:
    return trained(log, training=CALM).versions


class TestDrift:
    def test_an_alarm_brings_a_version_early(self, drifted: dict[int, ModelRecord]) -> None:
        first, second, third, early, *later = midnights(drifted)
        assert (first, second, third) == (2, 30, 58)
        assert MOVED < early <= MOVED + 3
        assert all(day - early >= 7 for day in later)
        drifts = [record.drift for record in drifted.values() if record.drift]
        # The first is from a time when the window was filling.
        assert [drift.reference for drift in drifts] == [1] + [2] * (len(drifted) - 1)
        assert [drift.distance_alarm for drift in drifts[:3]] == [None] * 3
        assert drifts[3].early == drifted[4].at == drifts[3].distance_alarm

    def test_nothing_happens_while_nobody_moves(self) -> None:
        found = trained(interleaved(moving(DAYS, DAYS), 0), training=CALM).versions
        assert midnights(found) == [2, 30, 58, 86]

    @pytest.mark.parametrize("cut", [0.2, 0.5, 0.64, 0.66, 0.8])
    def test_a_successor_knows_what_its_predecessor_knew(
        self, log: list[Message], drifted: dict[int, ModelRecord], cut: float
    ) -> None:
        topics = MemoryTopics()
        topics.samples = log[: int(cut * len(log))]
        predecessor, _ = trainer_of(topics, training=CALM)
        work(predecessor, topics)
        successor, _ = trainer_of(topics, training=CALM)
        work(successor, topics)
        assert predecessor.study is not None
        assert successor.study is not None
        known, found = predecessor.study.watch, successor.study.watch
        if found is None:  # no day since the newest version: the version tells it all
            assert successor.study.newest == predecessor.study.newest
        else:
            assert known is not None
            assert found.drift == known.drift
        topics.samples = list(log)
        work(successor, topics)
        assert topics.versions == drifted

    def test_compaction_takes_days_but_makes_no_alarm(self) -> None:
        calm = interleaved(moving(DAYS, DAYS), 0)
        cut = int(0.7 * len(calm))
        topics = MemoryTopics()
        topics.samples = calm[:cut]
        work(trainer_of(topics, training=CALM)[0], topics)
        newest = {key: i for i, (key, _) in enumerate(topics.samples)}
        topics.samples = [calm[i] for i in sorted(newest.values())] + calm[cut:]
        topics.committed = -1
        work(trainer_of(topics, training=CALM)[0], topics)
        assert midnights(topics.versions) == [2, 30, 58, 86]
        assert all(r.drift and r.drift.distance_alarm is None for r in topics.versions.values())

    def test_a_chosen_number_of_segments_survives_a_restart_too(self, log: list[Message]) -> None:
        training = replace(TRAINING, bounds=(2, 5))
        versions = trained(log, training=training).versions
        topics = MemoryTopics()
        topics.samples = log[: len(log) // 2]
        work(trainer_of(topics, training=training)[0], topics)
        topics.samples = list(log)
        work(trainer_of(topics, training=training)[0], topics)
        assert topics.versions == versions
        assert {r.choice and r.choice.k for r in versions.values()} >= {3}


class TestGroup:
    def test_a_standby_does_nothing_until_it_is_the_owner(
        self, messages: list[Message], versions: dict[int, ModelRecord]
    ) -> None:
        topics = MemoryTopics()
        topics.samples = messages[: len(messages) // 2]
        notes = Notes()
        ports, standby_samples = memory_ports(topics, CustomerKMeans, notes)
        standby = Trainer(TRAINING, ports)
        active, _ = trainer_of(topics)
        standby.turn()
        work(active, topics)
        standby.turn()
        assert notes.claims == []
        topics.samples = list(messages)
        topics.assign(standby_samples)
        active.turn()
        assert active.study is None
        work(standby, topics)
        assert notes.claims == [2]
        assert topics.versions == versions

    def test_a_former_owner_cannot_publish(self, messages: list[Message]) -> None:
        topics = MemoryTopics()
        topics.samples = list(messages)
        former, _ = trainer_of(topics, 5_000)
        polled = former.ports.samples.poll(0)
        successor, notes = trainer_of(topics)  # the partition moves while `former` computes
        work(successor, topics)
        record = topics.versions[1]
        with pytest.raises(Exception, match="another trainer"):
            former.ports.press.publish(record, polled.fence)
        assert notes.versions == [1, 2, 3, 4]

    def test_a_partition_taken_and_given_back_is_claimed_anew(
        self, messages: list[Message], versions: dict[int, ModelRecord]
    ) -> None:
        topics = MemoryTopics()
        topics.samples = list(messages)
        notes = Notes()
        ports, samples = memory_ports(topics, CustomerKMeans, notes)
        trainer = Trainer(TRAINING, ports)
        topics.assign(samples)
        for _ in range(3):
            trainer.turn()
            topics.assign(samples)
        work(trainer, topics)
        assert len(notes.claims) == 4
        assert topics.versions == versions

    def test_the_group_never_looks_done_before_the_announcement(
        self, messages: list[Message]
    ) -> None:
        """`replay --as-lived` takes committed = end of the topic for: all is announced."""
        topics = MemoryTopics()
        trainer, _ = trainer_of(topics, 5_000)
        trainer.turn()
        topics.samples = list(messages)
        topics.faults = ["announce"]
        trainer.turn()
        assert list(topics.versions) == [1]
        assert topics.announced == []
        assert topics.committed < len(topics.samples)


class TestBadRecords:
    @pytest.mark.parametrize(
        ("record", "reason"),
        [
            ((b"00", b"{}"), "invalid"),
            ((None, b"{}"), "invalid"),
            ((key_of(1), b"not json"), "invalid"),
            ((key_of(1).upper(), sample(1, START, [1, 1])[1]), "invalid"),
            (sample(1, START, [1]), "invalid"),
            (sample(1, START, [1, 1e39]), "invalid"),
            (sample(1, START, [1, float("nan")]), "invalid"),
            (altered(sample(1, START, [1, 1]), b"01-01T", b"13-01T"), "invalid"),
            (altered(sample(1, START, [1, 1]), b"two", b"three"), "features"),
            ((b"day-1", marker(0, START)[1]), "invalid"),
            ((b"day-3", marker(3, START)[1]), "invalid"),
            (marker(0, START + 1), "invalid"),
        ],
        ids=str,
    )
    def test_are_skipped_and_counted(
        self,
        messages: list[Message],
        versions: dict[int, ModelRecord],
        record: Message,
        reason: str,
    ) -> None:
        topics = MemoryTopics()
        topics.samples = [record, *messages[:100], record, *messages[100:]]
        trainer, notes = trainer_of(topics)
        work(trainer, topics)
        assert notes.skips == [reason, reason]
        assert topics.versions == versions

    def test_a_deleted_marker_is_nothing(self, messages: list[Message]) -> None:
        topics = trained([(b"day-0", None), *messages[:50]])
        assert topics.committed == 51
