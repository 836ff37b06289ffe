"""Whatever a producer sends is an event, is forwarded, or is a dead letter with a reason.

The corpus of tests/bad_input.py and records made up by Hypothesis go through the core, between
good events, and through both decoders; the oracle says what must become of each. The same corpus
goes through real servers in tests/integration/test_bad_input.py.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segstream.core.check import define
from segstream.core.event import Reader
from segstream.core.field import Fields
from segstream.core.hash import Partitioner
from segstream.core.step import Partition
from segstream.shell.river import CustomerKMeans
from segstream.study import Foreign, Study
from tests import bad_input, test_decode
from tests.bad_input import CONFIG, Sent
from tests.comparison import letter_headers, problems
from tests.harness import Run, columns
from tests.oracle import Oracle, Record
from tests.oracle_reading import partition_of
from tests.retail_year import small_training
from tests.test_decode import CASES, assert_equal

NOW = 1_795_413_960_123
FIELDS = Fields(define(CONFIG))
FAST, AUTHORITY = Reader(FIELDS), test_decode.Authority(FIELDS)
GOOD = 50  # every so many records a good one


def records_of(sent: Iterable[Sent]) -> list[Record]:
    return [
        Record(offset, NOW + offset, list(one.headers) or None, one.value, one.key)
        for offset, one in enumerate(sent)
    ]


def run_of(records: Sequence[Record], partition: int = 0, partitions: int = 1) -> Run:
    run = Run(CONFIG, {}, Partition(partition, partitions, "murmur2", "customer-events"))
    return run.feed(records, lambda: 1_000)


def assert_as_the_oracle_says(records: Sequence[Record], partitions: int) -> Run:
    run = run_of(records, 0, partitions)
    oracle = Oracle(
        CONFIG, partition=0, partitions=partitions, models={}, features_id=run.function.features_id
    )
    for record in records:
        oracle.feed(*record)
    assert problems(run, oracle) == []
    return run


def assert_read_alike(records: Sequence[Record], partitions: int) -> None:
    """With and without the fast path."""
    arguments = (columns(records), 0, partitions, "murmur2")
    assert_equal(FAST.decode(*arguments), AUTHORITY.decode(*arguments))  # type: ignore[arg-type]


@cache
def corpus() -> list[Sent]:
    return bad_input.everything()


# --- the corpus -----------------------------------------------------------------------------


def test_of_everything_bad_nothing_is_lost_and_good_events_between_are_counted() -> None:
    names = [
        name
        for name in map("good-{}".format, range(9_999))
        if partition_of(name, 2, "murmur2") == 0
    ]
    sent: list[Sent] = []
    for number, one in enumerate(corpus()):
        if number % GOOD == 0:
            order = {**bad_input.ORDER, "userId": names[number // GOOD]}
            sent.append(Sent("good", bad_input.text(order)))
        sent.append(one)
    run = assert_as_the_oracle_says(records_of(sent), 2)
    good = sum(one.what == "good" for one in sent)
    assert good > 100
    assert set(names[:good]) <= run.states().keys()
    counts = run.checkpoint.counts
    outcomes = ("valid", "duplicates", "late", "forwarded", "dead_letters", "control")
    assert sum(counts[name] for name in outcomes) == len(sent)
    assert counts["dead_letters"] > len(sent) / 3
    assert counts["forwarded"] > 100


def test_both_ways_read_everything_bad_alike() -> None:
    records = records_of(corpus())
    for start in range(0, len(records), 1_000):
        assert_read_alike(records[start : start + 1_000], 2)


def test_records_at_the_limits() -> None:
    """A few of 10 MiB each, good and bad."""
    for one in bad_input.large():
        run = assert_as_the_oracle_says(records_of([one]), 2)
        assert_read_alike(records_of([one]), 2)
        assert len(run.outputs) + run.checkpoint.counts["valid"] == 1, one.what


def test_the_corpus_leads_to_every_reason() -> None:
    run = run_of(records_of([*corpus(), *bad_input.large()]), 0, 2)
    found = Counter(
        letter_headers(o.headers)[1]["reason"].decode()
        for o in run.outputs
        if o.topic == "dead_letters"
    )
    wanted = {
        "json",
        "schema",
        "customer",
        "alias",
        "timestamp",
        "control",
        "value",
        "currency",
        "model",
        "partition",
        "size",
    }
    assert found.keys() == wanted


# --- JSONTestSuite --------------------------------------------------------------------------

NO_CALL, READ = {"json", "schema"}, {"", "json"}
#: Place → by the first letter of a file's name, the outcomes that there may be; "" is accepted.
MAY: dict[str, dict[str, set[str]]] = {
    "value": {"y": NO_CALL, "i": NO_CALL},
    "unread": {"y": {""}, "i": READ},
    "properties": {"y": {"", "schema"}, "i": {*READ, "schema"}},
    "total": {"y": {"", "value"}, "i": {*READ, "value"}},
    "channel": {"y": {""}, "i": READ},
    "currency": {"y": {"", "currency"}, "i": {*READ, "currency"}},
}


@pytest.mark.parametrize("place", MAY)
def test_the_json_test_suite(place: str) -> None:
    """y… parses, n… does not, i… may: each file as a value and in every place for one."""
    files = [(name, dict(bad_input.places(raw))[place]) for name, raw in bad_input.suite()]
    assert Counter(name[0] for name, _ in files) == {"y": 95, "n": 188, "i": 35}
    run = run_of(records_of(Sent(name, value) for name, value in files))
    outcomes = dict.fromkeys(range(len(files)), "")
    for output in run.outputs:
        if output.topic != "dead_letters":
            continue
        errors = letter_headers(output.headers)[1]
        outcomes[int(errors["offset"])] = errors["reason"].decode()
    may = {**MAY[place], "n": {"json"}}
    wrong = [
        (name, outcomes[i]) for i, (name, _) in enumerate(files) if outcomes[i] not in may[name[0]]
    ]
    assert wrong == []
    assert {outcomes[i] for i, (name, _) in enumerate(files) if name[0] == "y"} == may["y"]


# --- made up --------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["ce_type", "ce_id", "ce_time", "content-type", "segstream.hops", "segstream.appended", "x", ""]
)
BYTES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"segstream.clock",
            b"segstream.model",
            b"call",
            b"2026-01-01T00:00:00Z",
            b"3",
            b"application/cloudevents+json",
            b"segstream.",
        ]
    ),
    st.none(),
)
HEADERS = st.one_of(st.none(), st.none(), st.lists(st.tuples(NAMES, BYTES), max_size=4))
CLOUDS = test_decode.calls().map(
    lambda call: '{"specversion":"1.0","id":"i","source":"s","type":"t","data":' + call + "}"
)
VALUES = st.one_of(
    test_decode.VALUES,
    test_decode.VALUES,
    CLOUDS.map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=60),
)


@settings(max_examples=CASES // 20)
@given(
    st.lists(st.tuples(VALUES, HEADERS, st.none() | st.binary(max_size=4)), max_size=12),
    st.sampled_from([1, 2, 3]),
)
def test_any_record_becomes_what_the_oracle_says(
    found: list[tuple[bytes | None, list[tuple[str, bytes | None]] | None, bytes | None]],
    partitions: int,
) -> None:
    sent = [Sent("made up", value, headers or (), key) for value, headers, key in found]
    assert_as_the_oracle_says(records_of(sent), partitions)
    assert_read_alike(records_of(sent), partitions)


# --- the trainer's records ------------------------------------------------------------------

SAMPLE = {
    "partition": 0,
    "level": 0,
    "at": "2026-03-01T00:00:00.000Z",
    "features": "",
    "values": [],
}
MARKER = {"partition": 0, "partitions": 1, "day": "2026-03-01T00:00:00.000Z"}
TIMES = ("", "noon", "9999-99-99T99:99:99.999Z", "0000-00-00T00:00:00.000Z",
         "2026-03-01T00:00:00.001Z")  # fmt: skip
ODD = (*bad_input.JUNK, -1, 65, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), *TIMES)


def test_forged_records_for_the_trainer_are_skipped_and_cost_nothing() -> None:
    """Every field wrong in every way, other keys, and what is no JSON at all."""
    training = small_training()
    good = {**SAMPLE, "features": training.features_id, "values": [1.0] * len(training.features)}
    values = [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"9" * 100_000]
    for record in (good, MARKER):
        values += [bad_input.text({**record, name: odd}) for name in record for odd in ODD]
    values += [bad_input.text({**good, "values": [odd] * len(training.features)}) for odd in ODD]
    values += [bad_input.text({**good, "more": 1}), b'{"values":' + b"[" * 100_000]
    study = Study(training, {}, CustomerKMeans)
    skipped = 0
    for key in (None, b"", b"\xff", b"0" * 16, b"g" * 16, b"day-0", b"day-1", b"day-", b"day-x"):
        for value in values:
            try:
                study.read(key, value)
            except (ValueError, Foreign):
                skipped += 1
            study.days()
    assert skipped > 0.9 * 9 * len(values)
    ended = bad_input.text({**MARKER, "day": "2026-04-01T00:00:00.000Z"})
    study.read(b"%016x" % 7, bad_input.text(good))
    study.read(b"day-0", ended)
    ((_, samples), *_) = study.days()
    assert {sample.customer for sample in samples} >= {7}, "it goes on"


# --- between deployments --------------------------------------------------------------------


def test_deployments_that_disagree_forward_a_call_three_times_and_no_more() -> None:
    """Each sends it to where it believes it belongs, which is never where the other one does."""
    homes = {
        name: {p: partition_of(name, 3, p) for p in ("murmur2", "crc32")}
        for name in map("customer-{}".format, range(99))
    }
    name, home = next((n, h) for n, h in homes.items() if h["murmur2"] != h["crc32"])
    value = bad_input.text({**bad_input.ORDER, "userId": name})
    record, place, hops = Record(0, NOW, [("trace", b"1")], value, b"k"), home["crc32"], 0
    while True:
        other: Partitioner = "murmur2" if place == home["crc32"] else "crc32"
        run = Run(CONFIG, {}, Partition(place, 3, other, "customer-events"))
        (output,) = run.feed([record]).outputs
        if output.topic == "dead_letters":
            break
        hops += 1
        place = output.partition
        record = Record(hops, NOW + hops, output.headers, output.value, output.key)
    first = ("segstream.appended", b"2026-11-23T06:06:00.123Z")
    assert hops == 3
    assert record.headers == [("trace", b"1"), ("segstream.hops", b"3"), first]
    assert letter_headers(output.headers)[1]["reason"] == b"partition"
    assert (output.key, output.value) == (b"k", value)
