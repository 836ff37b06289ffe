"""The audit's pure parts: a partition computed again, and every kind of damage named.

Streams are those of the property tests; the seed is in the test's id.
"""

from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest

from segstream.core.audit import (
    NOWHERE,
    Chain,
    Changes,
    Kept,
    Place,
    Problem,
    Sample,
    membership_differences,
)
from segstream.core.batch import Checkpoint, Position
from segstream.core.difference import checkpoint_differences, state_differences
from segstream.core.output import Output
from segstream.core.recompute import Recomputation, Unreachable
from segstream.core.step import Partition
from tests.harness import Run, columns
from tests.streams import Stream, generate

SEEDS = range(12)


def run_of(stream: Stream) -> Run:
    where = Partition(stream.partition, stream.partitions, stream.partitioner, "customer-events")
    return Run(stream.config, stream.models, where)


def again_of(run: Run, stream: Stream) -> Recomputation:
    return Recomputation(run.function, run.partition, Checkpoint(0, 0, "layout"))


def reach(again: Recomputation, run: Run, stream: Stream, target: Position) -> list[Output]:
    """Compute up to a position: whole records before it, then a part of the next one's ticks."""
    outputs: list[Output] = []

    def step(records: list[int]) -> int:
        rows = columns([stream.records[i] for i in records])
        decoded, _ = again.decode(rows)
        taken, said = again.step(rows, decoded, run.models, target)
        outputs.extend(said)
        return taken

    start = again.checkpoint.offset
    left = [i for i, r in enumerate(stream.records) if start <= r.offset < target.offset]
    while left:
        left = left[step(left) :]
    ahead = [i for i, r in enumerate(stream.records) if r.offset >= target.offset][:1]
    while ahead and again.checkpoint.position < target:
        step(ahead)
    return outputs


def test_any_position_of_a_worker_is_reached_exactly() -> None:
    """Also those between two minutes of a record's ticks: same States, index and Checkpoint."""
    assert sum(map(reached, SEEDS)) > 10, "too few batches stopped within the ticks of a record"


def reached(seed: int) -> int:
    """How many batches of a stream in random cuts stopped within the ticks of a record."""
    stream, rng = generate(seed), Random(seed)
    run, within = run_of(stream), 0
    again = again_of(run, stream)
    at, said = 0, list[Output]()
    while at < len(stream.records):
        rows = columns(stream.records[at : at + rng.randint(1, 40)])
        taken = run.batch(rows, rng.choice([0, 1, 10, 200, 50_000]))
        within += not taken
        at += taken
        if rng.random() < 0.7 or at == len(stream.records):
            said += reach(again, run, stream, run.checkpoint.position)
            assert list(checkpoint_differences(again.checkpoint, run.checkpoint)) == [], seed
            assert again.states == run.states(), seed
            index = {m: c for m, c in run.store.minutes.get(0, {}).items() if c}
            assert {m: c for m, c in again.minutes.items() if c} == index, seed
    assert again.records == len(stream.records), seed

    def told(outputs: list[Output]) -> list[tuple[object, ...]]:
        return [(o.topic, o.key, o.value, o.headers) for o in outputs if o.topic != "samples"]

    assert told(said) == told(run.outputs), seed
    return within


def test_a_position_that_the_log_does_not_lead_to_is_named() -> None:
    stream = generate(1)
    run = run_of(stream).feed(stream.records[:30])
    there = run.checkpoint.position
    with pytest.raises(Unreachable, match=f"offset {there.offset}, clock {there.clock}"):
        reach(again_of(run, stream), run, stream, there._replace(clock=there.clock + 1))


# -- changes beside those of the log ---------------------------------------------------


@pytest.fixture(scope="module")
def told() -> tuple[int, list[Output]]:
    """Partition and changes of a stream that has enough of both kinds."""
    for seed in range(100):
        stream = generate(seed)
        changes = [o for o in run_of(stream).feed(stream.records).outputs if o.topic == "changes"]
        ticks = sum(b'"time"' in (o.value or b"") for o in changes)
        if len(changes) > 20 and 5 < ticks < len(changes) - 5:
            return stream.partition, changes
    raise AssertionError("no such stream")


def kept(outputs: list[Output]) -> list[Kept]:
    return [Kept(o.key, o.value, o.headers) for o in outputs]


END = Position(2**40, 0)


def compared(
    partition: int,
    wanted: list[Output],
    there: list[Kept],
    *,
    whole: bool = True,
) -> list[Problem]:
    changes = Changes(partition, iter(there), whole=whole)
    found = [problem for output in wanted for problem in changes.expect(output)]
    return found + list(changes.finish(END))


Told = tuple[int, list[Output]]


def test_equal_changes_are_no_problem(told: Told) -> None:
    partition, wanted = told
    assert compared(partition, wanted, kept(wanted)) == []


def test_changes_beyond_the_position_are_left_alone(told: Told) -> None:
    """A worker that goes on has said more than was computed; who moved is remembered."""
    partition, wanted = told
    for number in range(1, len(wanted)):
        before = wanted[number - 1].position
        changes = Changes(partition, iter(kept(wanted)), whole=True)
        assert [p for o in wanted[:number] for p in changes.expect(o)] == []
        assert list(changes.finish(before)) == []
        assert changes.later == {(o.key or b"").decode() for o in wanted[number:]}


def test_changes_deleted_by_age_are_not_missed(told: Told) -> None:
    partition, wanted = told
    there = kept(wanted)[7:]
    assert compared(partition, wanted, there, whole=False) == []
    assert len(compared(partition, wanted, there)) == 7
    assert len(compared(partition, wanted, there[:3] + there[4:], whole=False)) == 1


Damage = Callable[[list[Kept]], list[Kept]]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda k: k[:5] + k[6:], "is missing"),
    "last one missing": (lambda k: k[:-1], "is missing"),
    "twice in a row": (lambda k: k[:6] + k[5:], "is there twice"),
    "again at the end": (lambda k: [*k, k[5]], "there a second time"),
    "foreign": (
        lambda k: [*k[:5], k[5]._replace(headers=[("ce_id", b"x")]), *k[5:]],
        "segstream did not make it",
    ),
    "other value": (
        lambda k: [*k[:5], k[5]._replace(value=(k[5].value or b"").replace(b'"to":', b'"too":')),
                   *k[6:]],
        "too is",
    ),
    "other header": (
        lambda k: [*k[:5], k[5]._replace(headers=[*k[5].headers[:-1], ("content-type", b"text")]),
                   *k[6:]],
        "content-type is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_each_damage_is_named(told: Told, name: str) -> None:
    partition, wanted = told
    damage, text = DAMAGES[name]
    problems = compared(partition, wanted, damage(kept(wanted)))
    assert any(text in problem.text for problem in problems), problems
    assert {p.about for p in problems} == {"change"}


def test_two_that_changed_places_are_named(told: Told) -> None:
    partition, wanted = told
    there = kept(wanted)
    there[4], there[5] = there[5], there[4]
    texts = [problem.text for problem in compared(partition, wanted, there)]
    assert any("out of order" in text for text in texts), texts


# -- a partition by itself -------------------------------------------------------------


def chained(partition: int, there: list[Kept], *, whole: bool = True) -> list[Problem]:
    chain = Chain(partition, END, whole=whole)
    return [problem for change in there for problem in chain.take(change)]


def test_a_sound_chain_is_no_problem(told: Told) -> None:
    partition, wanted = told
    assert chained(partition, kept(wanted)) == []
    assert chained(partition, kept(wanted)[9:], whole=False) == []


@pytest.mark.parametrize("name", ["twice in a row", "again at the end", "foreign"])
def test_a_chain_names_what_it_can_see(told: Told, name: str) -> None:
    partition, wanted = told
    damage, text = DAMAGES[name]
    problems = chained(partition, damage(kept(wanted)))
    assert [text in problem.text for problem in problems] == [True]


def test_a_chain_misses_what_is_gone_from_its_middle(told: Told) -> None:
    """A number is left out, unless it was the customer's last one."""
    partition, wanted = told
    there = kept(wanted)
    gone = next(
        i for i, k in enumerate(there) if any(k.key == later.key for later in there[i + 1 :])
    )
    problems = chained(partition, there[:gone] + there[gone + 1 :])
    assert problems
    assert problems[0].customer == there[gone].customer
    assert "sequence is" in problems[-1].text or "from is" in problems[-1].text


def test_a_chain_knows_where_everybody_stands(told: Told) -> None:
    partition, wanted = told
    half = wanted[len(wanted) // 2].position
    chain = Chain(partition, half, whole=True)
    for change in kept(wanted):
        assert list(chain.take(change)) == []
    for customer, standing in chain.latest.items():
        last = [k.body for k in kept(wanted) if k.customer == customer][-1]
        where = (last["to"]["segment"], last["sequence"]) if last["to"] else NOWHERE
        assert standing == where
    early = {(o.key or b"").decode() for o in wanted if o.position <= half}
    assert chain.before.keys() == early


# -- words -----------------------------------------------------------------------------


def test_every_byte_of_a_state_is_looked_at() -> None:
    """Each flipped bit is named by its field."""
    stream = generate(3)
    run = run_of(stream).feed(stream.records)
    layout, blob = run.function.layout, next(iter(run.states().values()))
    assert list(state_differences(layout, blob, blob)) == []
    named: set[str] = set()
    for at in range(layout.dtype.itemsize):
        damaged = layout.unpack([blob], [""])
        damaged.view(np.uint8)[at] ^= 1
        (text,) = state_differences(layout, layout.pack(damaged)[0], blob)
        named.add(text.partition(" ")[0].partition("[")[0])
    assert named == {"the", *(layout.dtype.names or ())} - {"layout"}


def test_a_state_that_is_not_there_is_named() -> None:
    layout = run_of(generate(3)).function.layout
    assert list(state_differences(layout, None, b"x")) == ["has no State"]
    assert list(state_differences(layout, b"x", None)) == ["has a State, the log says none"]
    assert list(state_differences(layout, b"x", b"xy")) == [
        "the State is none of this configuration"
    ]


def test_ids_of_customers_stay_out_of_the_words(told: Told) -> None:
    """They are shown as hashes: no text may give them away."""
    partition, wanted = told
    there = kept(wanted)
    names = {k.customer for k in there}
    for i in range(0, len(there), 5):
        other = next(k for k in there if k.key != there[i].key)
        headers = [(n, b"x" if n == "ce_subject" else v) for n, v in there[i].headers]
        mixed = [*there]
        mixed[i] = there[i]._replace(value=other.value, headers=headers)
        problems = compared(partition, wanted, mixed)
        assert any("another customer" in problem.text for problem in problems)
        assert not any(name in problem.text.split() for name in names for problem in problems)


def test_memberships_differ_in_words() -> None:
    one = b'{"customer":"u","segment":1,"sequence":4}'
    two = b'{"customer":"u","segment":2,"sequence":4}'

    def texts(there: bytes | None, wanted: bytes | None) -> Iterator[str]:
        return membership_differences(Kept(b"u", there, ()), wanted)

    assert list(texts(one, one)) == []
    assert list(texts(one, two)) == ["segment is 1, the log says 2"]
    assert list(texts(None, two)) == ["has no membership"]
    assert list(texts(one, None)) == ["has a membership, the log says none"]
    assert list(membership_differences(None, None)) == []


# -- whom to look at -------------------------------------------------------------------


def test_a_sample_is_a_share_of_all_and_another_one_for_another_seed() -> None:
    people = [f"customer-{i}" for i in range(20_000)]
    one, other = Sample(0.05, 1), Sample(0.05, 2)
    chosen = {c for c in people if c in one}
    assert 800 < len(chosen) < 1_200
    assert chosen == {c for c in people if c in Sample(0.05, 1)}
    assert len(chosen & {c for c in people if c in other}) < 150
    assert all(c in Sample(1.0, 5) for c in people)
    assert [c for c in people if c in Sample(1.0, 5, ["customer-7"])] == ["customer-7"]


def test_places_sort_as_the_log_does() -> None:
    """Ticks of a record come before the record itself, those of a minute by customer."""
    head = [("ce_id", b"")]
    ids = [b"3-7", b"3-9-5-" + b"0" * 16, b"3-9-6-" + b"0" * 16, b"3-9", b"3-12"]
    places = [Kept(b"u", b"", [(head[0][0], name)]).place(3) for name in ids]
    assert places == sorted(places)
    assert Kept(b"u", b"", [("ce_id", b"4-7")]).place(3) == Place(-1, False, 0, b"")
