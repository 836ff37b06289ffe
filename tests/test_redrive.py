"""Dead letters that are sent again: read, chosen, named and packed, without a server.

What really happens in Kafka is in tests/integration/test_redrive.py.
"""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.redrive import moment, wanted
from consumers.settings import load
from segstream.core import output
from segstream.core.forward import LARGEST_STRAY, appended_of, hops_of, size_of
from segstream.core.output import Header, ms_text
from segstream.core.redrive import (
    MOST_BYTES,
    Filter,
    Letter,
    Marker,
    Origin,
    Resent,
    Survey,
    batches,
    marker_headers,
    read,
    resent,
)

AT = 1_772_323_200_123
Headers = list[tuple[str, bytes | None]]


def errors(partition: int = 2, offset: int = 7, reason: str = "value", **more: str) -> list[Header]:
    said = {
        "reason": reason, "message": "total = 'much'", "topic": "customer-events",
        "partition": str(partition), "offset": str(offset), "at": ms_text(AT), **more,
    }  # fmt: skip
    return [output.error(name, text) for name, text in said.items()]


def letter(headers: Headers | None = None, **fields: Any) -> Headers:
    """Headers of a dead letter, as the segmenter writes them."""
    size = int(fields.pop("size", 0))
    said = errors(**fields)
    return output.dead_letter(key=b"k", value=b"v", headers=headers, errors=said, size=size)[2]


# -- reading ---------------------------------------------------------------------------


def test_a_letter_says_what_it_is() -> None:
    origin = Origin("customer-events", 2, 7)
    assert read(2, letter()) == Letter("value", "total = 'much'", AT, origin, False, None)
    sent = read(2, letter([("segstream.redriven", b"2-5")]))
    assert sent == Letter("value", "total = 'much'", AT, origin, False, "2-5")
    cut = read(2, letter(reason="size", size="11000000"))
    assert isinstance(cut, Letter)
    assert cut.cut


def test_a_marker_says_which_letter_was_sent() -> None:
    assert read(2, marker_headers("2-7")) == Marker("2-7")


FOREIGN: list[Headers | None] = [
    None,
    [],
    [("trace", b"1")],
    [("segstream.redriven", None)],
    [("segstream.errors.reason", b"value")],
    [("segstream.errors.reason", None)],
    [("segstream.errors.at", b"2026-01-01T00:00:00Z"), ("segstream.errors.offset", b"1")],
    letter(partition=3),  # stands on another partition than it says
    letter(at="yesterday"),
    letter(offset=-1)[:-1],
    [(n, b"\xff" if n.endswith("partition") else v) for n, v in letter()],
    [(n, b"9" * 5_000 if n.endswith("offset") else v) for n, v in letter()],
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_what_segstream_did_not_write_is_left_alone(headers: Headers | None) -> None:
    assert read(2, headers) is None
    survey = Survey(Filter())
    survey.note(2, 0, headers, 100)
    survey.settle(again=True, limit=None)
    assert (survey.unknown, survey.to_send, survey.tallies) == (1, [], {})


def test_forged_errors_do_not_count() -> None:
    """A producer may send such headers; the segmenter's stand behind them."""
    forged = errors(partition=0, reason="json", size="5")
    found = read(2, letter([*forged, ("segstream.errors.size", b"1")]))
    assert found == read(2, letter())
    assert resent(2, 9, b"k", b"v", letter([*forged])).headers[: len(forged)] == forged


# -- what is sent ----------------------------------------------------------------------

names = st.sampled_from(
    ["trace", "", "ce_type", "segstream.hops", "segstream.appended", "segstream.redriven",
     "segstream.errors.reason", "segstream.errors.size", "segstream.errors.at"]
)  # fmt: skip
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
values = st.none() | st.binary(max_size=8) | st.sampled_from([b"3", ms_text(AT - 5).encode()])
OWN = ("segstream.hops", "segstream.appended", "segstream.redriven")


@given(
    key=st.none() | st.binary(max_size=9),
    value=st.none() | st.binary(max_size=9),
    came=st.none() | st.lists(st.tuples(names | texts, values), max_size=6),
    partition=st.integers(0, 99),
    offset=st.integers(0, 1 << 60),
)
def test_the_original_comes_back_with_two_headers_more(
    key: bytes | None, value: bytes | None, came: Headers | None, partition: int, offset: int
) -> None:
    """Byte for byte, whatever a producer has put into it: also headers that look like ours."""
    there = output.dead_letter(key=key, value=value, headers=came, errors=errors(partition))
    again = resent(partition, offset, *there)
    kept = [header for header in came or [] if header[0] not in OWN]
    appended = [v for n, v in came or [] if n == "segstream.appended" and v is not None][-1:]
    known = appended_of(came) is not None
    first = appended[0] if known else ms_text(AT).encode()
    name = f"{partition}-{offset}"
    added = [("segstream.appended", first), ("segstream.redriven", name.encode())]
    assert again == Resent(name, partition, key, value, [*kept, *added])
    assert again.size == size_of(key, value, again.headers)


def test_a_letter_of_a_letter_keeps_the_time_of_the_first() -> None:
    """However often it fails: headers do not pile up, and the first append time stays."""
    headers: Headers = [("trace", b"1"), ("segstream.hops", b"3")]
    for round_ in range(3):
        there = letter(headers, at=ms_text(AT + round_))
        headers = resent(2, round_, b"k", b"v", there).headers
    assert headers == [
        ("trace", b"1"),
        ("segstream.appended", ms_text(AT).encode()),
        ("segstream.redriven", b"2-2"),
    ]
    assert (appended_of(headers), hops_of(headers)) == (AT, 0)


# -- what is chosen --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "taken"),
    [
        (Filter(), True),
        (Filter(frozenset({"value", "json"})), True),
        (Filter(frozenset({"json"})), False),
        (Filter(partitions=frozenset({2})), True),
        (Filter(partitions=frozenset({0, 1})), False),
        (Filter(since=AT), True),
        (Filter(since=AT + 1), False),
        (Filter(until=AT), False),
        (Filter(until=AT + 1), True),
        (Filter(frozenset({"value"}), AT, AT + 1, frozenset({2})), True),
        (Filter(frozenset({"value"}), AT, AT + 1, frozenset({1})), False),
    ],
)
def test_a_filter_takes_what_it_names(chosen: Filter, taken: bool) -> None:
    found = read(2, letter())
    assert isinstance(found, Letter)
    assert chosen.takes(found) is taken


ALL = Filter()


def surveyed(
    records: list[tuple[int, Headers, int]],
    chosen: Filter = ALL,
    *,
    again: bool = False,
    limit: int | None = None,
) -> Survey:
    """Of partition 2: records by (offset, headers, size)."""
    survey = Survey(chosen)
    for offset, headers, size in records:
        survey.note(2, offset, headers, size)
    survey.settle(again=again, limit=limit)
    return survey


def offsets(survey: Survey) -> list[int]:
    return [place.offset for place in survey.to_send]


def test_what_is_marked_is_not_sent_again() -> None:
    """Nor is what failed again, under its old name: it has become another letter."""
    records = [
        (0, letter(), 9),
        (1, letter(), 9),
        (2, letter(), 9),
        (3, marker_headers("2-0"), 9),
        (4, marker_headers("2-1"), 9),
        (5, letter([("segstream.redriven", b"2-1")]), 9),
    ]
    assert offsets(surveyed(records)) == [2, 5]
    assert offsets(surveyed(records, again=True)) == [0, 2, 5]
    tally = surveyed(records).tallies["value"]
    assert (tally.letters, tally.sent_before, tally.failed_again, tally.to_send) == (4, 2, 1, 2)
    others = Filter(frozenset({"json"}))
    assert surveyed(records, others).tallies == {}


def test_the_limit_leaves_out_the_newest() -> None:
    times = ((5, "value"), (3, "json"), (4, "value"), (9, "json"))
    records = [(i, letter(at=ms_text(AT + t), reason=r), 9) for i, (t, r) in enumerate(times)]
    survey = surveyed(records, limit=2)
    assert offsets(survey) == [1, 2]
    assert {reason: tally.to_send for reason, tally in survey.tallies.items()} == {
        "value": 1, "json": 1,
    }  # fmt: skip
    assert survey.tallies["json"].oldest == AT + 3
    assert survey.tallies["json"].newest == AT + 9


def test_what_is_cut_or_too_large_is_named_and_not_sent() -> None:
    records = [
        (0, letter(offset=10, reason="size", size="11000000"), 9),
        (1, letter(offset=11), LARGEST_STRAY + 1),
        (2, letter(offset=12), LARGEST_STRAY),
    ]
    for again in (False, True):
        survey = surveyed(records, again=again)
        assert offsets(survey) == [2]
        assert survey.too_large == [Origin("customer-events", 2, o) for o in (10, 11)]
    other = surveyed(records, Filter(frozenset({"size"})))
    assert other.too_large == [Origin("customer-events", 2, 10)]


def test_before_it_is_settled_nothing_is_to_be_sent() -> None:
    """A survey that was stopped may have missed markers."""
    survey = Survey(Filter())
    survey.note(2, 0, letter(), 9)
    assert survey.to_send == []


@given(
    st.lists(st.integers(0, MOST_BYTES * 5 // 4) | st.integers(0, 9), max_size=30),
    st.integers(1, 7),
)
def test_batches_keep_order_number_and_size(sizes: list[int], most: int) -> None:
    class Sized(Resent):
        @property
        def size(self) -> int:
            return self.partition

    records = [Sized(str(i), size, None, None, []) for i, size in enumerate(sizes)]
    found = list(batches(records, most))
    assert [record for batch in found for record in batch] == records
    for batch in found:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(record.size for record in batch) <= MOST_BYTES
    for batch, after in pairwise(found):  # none is smaller than it must be
        whole = sum(record.size for record in batch) + after[0].size
        assert len(batch) == most or whole > MOST_BYTES


# -- what people ask for ---------------------------------------------------------------


def test_options_are_understood() -> None:
    assert moment("2h", AT) == AT - 7_200_000
    assert moment("2026-03-01T01:00:00.123+01:00", AT) == AT
    assert moment(None, AT) is None
    found = wanted(load({}), ["json", "size"], [0, 3], "2026-03-01T00:00:00Z", None)
    assert found == Filter(frozenset({"json", "size"}), AT - 123, None, frozenset({0, 3}))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ((["jsn"], None, None, None), "there is no reason 'jsn'; there are size, json"),
        ((None, [4], None, None), "there is no partition 4; there are 0 to 3"),
        ((None, [-1], None, None), "there is no partition -1"),
        ((None, None, "yesterday", None), "'yesterday' is no time; write 2026-11-23T06:00:00Z"),
        ((None, None, None, "2026-11-23"), "'2026-11-23' is no time"),
    ],
)
def test_wrong_options_are_explained(options: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        wanted(load({}), *options)
