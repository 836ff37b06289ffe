"""Names by people: a record, a version with the same centres, and memberships that carry it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from segstream.core.check import define
from segstream.core.model import Model
from segstream.core.name import Vocabulary
from segstream.core.record import ModelFeature, ModelRecord, ModelSegment, Panel, Rename, Retired
from segstream.core.rename import Unfit, check, renamed
from segstream.core.step import Partition
from segstream.shell.models import RENAME, model_from, rename_from
from segstream.shell.river import CustomerKMeans
from segstream.testing.trainer import Fault, MemoryTopics, Notes, memory_ports
from segstream.trainer import Trainer
from tests.harness import RETAIL, Run
from tests.oracle import Record
from tests.test_trainer import TRAINING, Message, interleaved, lives, trainer_of, work

AT = "2026-11-23T06:00:00.000Z"
WORDS = Vocabulary([("recency", "recent", "lapsed"), ("spend", "", "big-spending")])


def wish(segment: int, name: str | None) -> Rename:
    return Rename(segment=segment, name=name, at=AT)


def wishes(*pairs: tuple[int, str | None]) -> dict[int, Rename]:
    """As the trainer has them: the newest of each segment, the oldest first."""
    topics = MemoryTopics()
    for pair in pairs:
        topics.rename(wish(*pair))
    return topics.renames


def version(names: dict[int, str], retired: tuple[int, ...] = (9,)) -> ModelRecord:
    features = [
        ModelFeature(
            name=name, expression=text, transform="none", clip=(-9, 9), fill=0, mean=0, scale=1,
            weight=2,
        )
        for name, text in (("recency", "recency(orders)"), ("spend", "spend[90d]"))
    ]  # fmt: skip
    places = ((3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.5, 0.5))
    segments = [
        ModelSegment(
            segment=segment, name=name, named_by="profile", centre=list(place), size=1, share=0.25,
            profile={},
        )
        for (segment, name), place in zip(names.items(), places, strict=False)
    ]  # fmt: skip
    return ModelRecord(
        model=4,
        parent=3,
        kind="centres",
        at=AT,
        features=features,
        features_id="two",
        segments=segments,
        retired=[Retired(segment=i, name="gone", heir=1) for i in retired],
        panel=Panel(customers=4, level=0, at=AT),
        quality={},
    ).sealed()


PLAIN = version({1: "lapsed", 2: "recent", 3: "big-spending"})


def names(record: ModelRecord) -> dict[int, tuple[str, str]]:
    return {s.segment: (s.name, s.named_by) for s in record.segments}


def after(record: ModelRecord, *pairs: tuple[int, str | None]) -> ModelRecord:
    found = renamed(record, wishes(*pairs), WORDS, AT)
    assert found is not None
    return found


class TestVersion:
    def test_has_the_name_and_else_nothing_new(self) -> None:
        found = after(PLAIN, (1, "Sleepers"))
        assert (found.model, found.parent) == (5, 4)
        assert names(found) == {
            1: ("Sleepers", "person"),
            2: ("recent", "profile"),
            3: ("big-spending", "profile"),
        }
        same = {"model", "parent", "digest", "segments"}
        assert found.model_dump(exclude=same) == PLAIN.model_dump(exclude=same)
        for new, old in zip(found.segments, PLAIN.segments, strict=True):
            same = {"name", "named_by"}
            assert new.model_dump(exclude=same) == old.model_dump(exclude=same)
        key, value = b"%d" % found.model, found.model_dump_json(by_alias=True).encode()
        assert model_from(key, value).record == found

    def test_is_made_once(self) -> None:
        found = after(PLAIN, (1, "Sleepers"))
        assert renamed(found, wishes((1, "Sleepers")), WORDS, AT) is None
        assert renamed(PLAIN, {}, WORDS, AT) is None
        assert renamed(PLAIN, wishes((1, None)), WORDS, AT) is None

    def test_follows_the_newest_wish(self) -> None:
        found = after(after(PLAIN, (1, "Sleepers")), (1, "Sleepers"), (1, "Dormant"))
        assert names(found)[1] == ("Dormant", "person")

    def test_is_undone_by_a_reset(self) -> None:
        found = after(after(PLAIN, (1, "Sleepers")), (1, None))
        assert names(found) == names(PLAIN)

    def test_what_was_called_so_by_its_profile_is_told_apart(self) -> None:
        found = after(PLAIN, (2, "lapsed"))
        assert names(found)[2] == ("lapsed", "person")
        assert names(found)[1] == ("lapsed 2", "profile")

    def test_of_two_that_want_the_same_the_older_wish_wins(self) -> None:
        found = after(PLAIN, (2, "Stars"), (1, "Stars"))
        assert names(found)[2] == ("Stars", "person")
        assert names(found)[1] == ("lapsed", "profile")
        assert renamed(found, wishes((2, "Stars"), (1, "Stars")), WORDS, AT) is None

    def test_two_may_change_their_names(self) -> None:
        both = after(PLAIN, (1, "A"), (2, "B"))
        found = after(both, (1, "B"), (2, "A"))
        assert [names(found)[s][0] for s in (1, 2)] == ["B", "A"]

    @pytest.mark.parametrize("segment", [9, 77])
    def test_a_wish_for_what_is_not_there_is_nothing(self, segment: int) -> None:
        assert renamed(PLAIN, wishes((segment, "Ghosts")), WORDS, AT) is None

    @given(
        st.lists(
            st.tuples(st.integers(1, 5), st.sampled_from([None, "A", "B", "lapsed", "recent"])),
            max_size=8,
        )
    )
    def test_whatever_people_want_names_are_unique_and_come_to_rest(
        self, pairs: list[tuple[int, str | None]]
    ) -> None:
        record, known = PLAIN, {}
        for n in range(len(pairs)):
            known = wishes(*pairs[: n + 1])
            record = renamed(record, known, WORDS, AT) or record
            assert renamed(record, known, WORDS, AT) is None
            assert len({name for name, _ in names(record).values()}) == 3
        granted = {i: w.name for i, w in known.items() if w.name and names(record).get(i)}
        for segment, name in granted.items():
            others = {names(record)[i] for i in names(record) if i != segment}
            assert names(record)[segment] == (name, "person") or (name, "person") in others


class TestCheck:
    @pytest.mark.parametrize(
        ("segment", "name", "why"),
        [
            (77, "A", r"no segment 77; there are: 1 \(lapsed\), 2 \(recent\), 3"),
            (9, "A", "segment 9 is retired, most of its members are in 1"),
            (9, None, "retired"),
            (1, "recent", "segment 2 has the name 'recent'"),
            (1, "RECENT", "segment 2 has the name 'RECENT'"),
            (1, "Stars", "segment 3 has the name 'Stars'"),
        ],
    )
    def test_says_why_not(self, segment: int, name: str | None, why: str) -> None:
        with pytest.raises(Unfit, match=why):
            check(PLAIN, segment, name, wishes((3, "Stars"), (9, "Ghosts")))

    @pytest.mark.parametrize("name", [None, "Sleepers", "lapsed", "Ghosts"])
    def test_lets_the_rest_pass(self, name: str | None) -> None:
        check(PLAIN, 1, name, wishes((1, "Stars"), (9, "Ghosts")))

    @pytest.mark.parametrize("name", ["", " ", " a", "a ", "a\nb", "\x1b[31m", "x" * 61])
    def test_no_record_has_such_a_name(self, name: str) -> None:
        with pytest.raises(ValidationError):
            wish(1, name)

    @pytest.mark.parametrize("name", ["é", "a b", "Zurück & ‘neu’ 🙂", "x" * 60])
    def test_records_have_any_other(self, name: str) -> None:
        text = wish(1, name).model_dump_json().encode()
        assert rename_from(RENAME + b"1", text).name == name
        with pytest.raises(ValueError, match="another key"):
            rename_from(RENAME + b"2", text)


# -- the trainer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return interleaved(lives(25), 0)


def half_way(messages: list[Message]) -> tuple[Trainer, MemoryTopics, Notes]:
    """A trainer that has published two versions, and learned some days since."""
    topics = MemoryTopics()
    topics.samples = messages[: int(0.55 * len(messages))]
    trainer, notes = trainer_of(topics)
    work(trainer, topics)
    assert list(topics.versions) == [1, 2]
    return trainer, topics, notes


def centres(record: ModelRecord) -> dict[int, list[float]]:
    return {s.segment: s.centre for s in record.segments}


class TestTrainer:
    def test_publishes_and_announces_a_version_with_equal_centres(
        self, messages: list[Message]
    ) -> None:
        trainer, topics, notes = half_way(messages)
        topics.rename(wish(1, "Friends"))
        work(trainer, topics)
        assert notes.versions == [1, 2, 3]
        assert topics.announced == [1, 2, 3]
        assert centres(topics.versions[3]) == centres(topics.versions[2])
        assert names(topics.versions[3])[1] == ("Friends", "person")
        assert topics.versions[3].parent == 2
        assert topics.versions[3].at >= topics.versions[2].at
        work(trainer, topics)
        assert len(topics.versions) == 3

    def test_a_rename_changes_nothing_else_of_what_is_learned(
        self, messages: list[Message]
    ) -> None:
        """The next refits come on the same days and find the same people in the same segments.

        Only the random start of challengers depends on the number of the version.
        """
        found = []
        for renames in (False, True):
            training = replace(TRAINING, challenger_margin=1.0)
            topics = MemoryTopics()
            topics.samples = messages[: int(0.55 * len(messages))]
            trainer, _ = trainer_of(topics, training=training)
            work(trainer, topics)
            if renames:
                topics.rename(wish(1, "Friends"))
                work(trainer, topics)
            topics.samples = list(messages)
            work(trainer, topics)
            found.append([(r.at, centres(r)) for r in topics.versions.values()])
        plain, with_name = found
        assert with_name[:2] == plain[:2]
        assert with_name[3:] == plain[2:]

    def test_the_name_survives_refits_and_its_own_record(self, messages: list[Message]) -> None:
        trainer, topics, _ = half_way(messages)
        topics.rename(wish(1, "Friends"))
        work(trainer, topics)
        topics.samples = list(messages)
        work(trainer, topics)
        assert len(topics.versions) > 4
        assert all(
            names(r)[1] == ("Friends", "person") for v, r in topics.versions.items() if v >= 3
        )

    def test_a_wish_that_came_while_nobody_worked_is_read_at_the_claim(
        self, messages: list[Message]
    ) -> None:
        _, topics, _ = half_way(messages)
        topics.rename(wish(2, "Friends"))
        successor, notes = trainer_of(topics)
        work(successor, topics)
        assert notes.versions == [3]
        assert names(topics.versions[3])[2] == ("Friends", "person")

    def test_a_restart_after_it_goes_on_as_without(self, messages: list[Message]) -> None:
        ends = []
        for restarts in (False, True):
            trainer, topics, _ = half_way(messages)
            topics.rename(wish(1, "Friends"))
            work(trainer, topics)
            topics.samples = list(messages)
            if restarts:
                trainer, _ = trainer_of(topics)
            work(trainer, topics)
            ends.append(topics.versions)
        assert ends[0] == ends[1]

    def test_together_with_a_refit(self, messages: list[Message]) -> None:
        """Both in one turn: the refit first, then its names."""
        topics = MemoryTopics()
        topics.samples = list(messages)
        topics.rename(wish(1, "Friends"))
        trainer, notes = trainer_of(topics, limit=5_000)
        trainer.turn()
        assert notes.versions == [1, 2, 3, 4, 5]
        assert topics.versions[5].panel == topics.versions[4].panel
        assert names(topics.versions[5])[1] == ("Friends", "person")

    def test_twice_and_back(self, messages: list[Message]) -> None:
        trainer, topics, _ = half_way(messages)
        for name in ("Friends", "Family", None):
            topics.rename(wish(1, name))
            work(trainer, topics)
        found = [names(topics.versions[v])[1] for v in (2, 3, 4, 5)]
        assert found[1:3] == [("Friends", "person"), ("Family", "person")]
        assert found[3] != ("Family", "person")
        assert found[3][1] == "profile"  # as it is now: an older name may no longer be claimed

    def test_two_at_once_are_one_version(self, messages: list[Message]) -> None:
        trainer, topics, notes = half_way(messages)
        topics.rename(wish(1, "Friends"))
        topics.rename(wish(3, "Strangers"))
        work(trainer, topics)
        assert notes.versions == [1, 2, 3]

    def test_of_something_retired_meanwhile_is_nothing(self, messages: list[Message]) -> None:
        _, topics, _ = half_way(messages)
        topics.samples = list(messages)
        trainer, _ = trainer_of(topics, training=replace(TRAINING, k=2))
        work(trainer, topics)
        before = dict(topics.versions)
        retired = before[max(before)].retired
        assert retired
        for segment in retired:
            topics.rename(wish(segment.segment, "Ghosts"))
        work(trainer, topics)
        assert topics.versions == before

    def test_not_while_the_newest_version_is_of_other_features(
        self, messages: list[Message]
    ) -> None:
        _, topics, _ = half_way(messages)
        topics.rename(wish(1, "Friends"))
        other, notes = trainer_of(topics, training=replace(TRAINING, features_id="three"))
        other.turn()
        other.turn()
        assert notes.versions == []

    @pytest.mark.parametrize("fault", ["refused", "lost", "committed", "announce"])
    def test_any_failure_is_answered_by_claiming_again(
        self, messages: list[Message], fault: Fault
    ) -> None:
        trainer, topics, notes = half_way(messages)
        topics.rename(wish(1, "Friends"))
        topics.faults = [fault]
        for _ in range(3):
            trainer.turn()
        work(trainer, topics)
        assert topics.faults == []
        assert fault in " ".join(notes.forgotten)
        assert list(topics.versions) == [1, 2, 3]
        assert set(topics.announced) == {1, 2, 3}
        assert names(topics.versions[3])[1] == ("Friends", "person")

    def test_a_standby_and_a_former_owner_publish_nothing(self, messages: list[Message]) -> None:
        former, topics, notes = half_way(messages)
        ports, standby_samples = memory_ports(topics, CustomerKMeans)
        standby = Trainer(TRAINING, ports)
        topics.rename(wish(1, "Friends"))
        standby.turn()
        assert list(topics.versions) == [1, 2]
        topics.assign(standby_samples)
        former.turn()
        assert notes.versions == [1, 2]
        work(standby, topics)
        assert list(topics.versions) == [1, 2, 3]


# -- the segmenter --------------------------------------------------------------------


def call(offset: int, customer: str, day: int) -> Record:
    body = {
        "type": "track",
        "event": "Order Completed",
        "userId": customer,
        "timestamp": f"2026-01-{day:02}T12:00:00Z",
        "properties": {"total": 20},
    }
    return Record(offset, 2_000_000_000_000, None, json.dumps(body).encode())


def activation(offset: int, record: ModelRecord) -> Record:
    data = json.dumps({"version": record.model, "digest": record.digest}).encode()
    return Record(offset, 2_000_000_000_000, [("ce_type", b"segstream.model")], data)


def test_memberships_carry_the_new_name_from_that_version_on() -> None:
    """Nobody moves because of it, and who enters later enters what is now called so."""
    first = version({1: "lapsed", 2: "recent", 3: "big-spending"}).model_copy(
        update={"model": 1, "parent": None}
    )
    config: dict[str, Any] = json.loads(json.dumps(RETAIL))
    config["features"] = {
        "recency": {"expression": "recency(orders)", "transform": "log1p"},
        "spend": RETAIL["features"]["spend"],
    }
    del config["hysteresis"]
    first = first.model_copy(update={"features_id": define(config).features_id()}).sealed()
    second = after(first, (2, "Fresh"), (1, "Sleepers"), (3, "Big ones"))
    records = [
        activation(0, first),
        call(1, "a", 1),
        activation(2, second),
        call(3, "a", 2),
        call(4, "b", 3),
        call(5, "a", 3),
    ]
    body = {r.model: r.model_dump(mode="json", by_alias=True) for r in (first, second)}
    run = Run(config, body, Partition(0, 1, "murmur2", "customer-events"))
    run.feed(records)
    assert run.checkpoint.model == 2
    memberships = [json.loads(o.value or b"null") for o in run.outputs if o.topic == "memberships"]
    changes = [json.loads(o.value or b"null") for o in run.outputs if o.topic == "changes"]
    assert [(m["customer"], m["model"]) for m in memberships] == [("a", 1), ("b", 2)]
    old, new = memberships
    assert old["segment"] == new["segment"]
    assert old["name"] == Model(first).names[old["segment"]]
    assert new["name"] == Model(second).names[new["segment"]]
    assert old["name"] != new["name"]
    assert {c["cause"] for c in changes} == {"first"}
