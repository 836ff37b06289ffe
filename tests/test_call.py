"""The authority for incoming events: what it accepts, what it refuses, and that it never raises
anything else."""

import json
import math
import weakref
from datetime import datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core.call import (
    Call,
    ClockControl,
    Invalid,
    ModelControl,
    Reading,
    envelope_of,
    parse_time,
    read,
    shown,
)
from segstream.core.json_text import MAX_DEPTH, skimmable
from segstream.core.spec import ms_of
from tests import bad_input

TRACK: dict[str, Any] = {"type": "track", "userId": "u-1", "event": "Order Completed"}
DIGEST = "0a" * 32
STRUCTURED = [("content-type", b"application/cloudevents+json; charset=utf-8")]
CLOUD: dict[str, Any] = {"specversion": "1.0", "id": "ce-1", "source": "shop", "type": "call"}


def text(body: object) -> bytes:
    return json.dumps(body).encode()


def call(body: object, headers: list[tuple[str, bytes | None]] | None = None) -> Call:
    reading = read(text(body), headers)
    assert isinstance(reading, Call)
    return reading


def refused(value: bytes | None, headers: list[tuple[str, bytes | None]] | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        read(value, headers)
    assert len(caught.value.message.encode()) <= 1024
    return caught.value


def attempt(value: bytes | None, headers: Any = None) -> Reading | Invalid:
    """Reads; fails the test if anything but Invalid is raised."""
    try:
        return read(value, headers)
    except Invalid as invalid:
        error = invalid
    assert len(error.message.encode()) <= 1024
    return error


# --- calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["track", "identify", "page", "screen", "group"])
def test_a_call_of_each_type_is_read(kind: str) -> None:
    body = {
        "type": kind,
        "userId": "u-1",
        "event": "Order Completed",
        "messageId": "m-1",
        "timestamp": "2026-11-23T06:06:00.123Z",
        "properties": {"revenue": 12.10},
        "traits": {"plan": "pro"},
    }
    got = call(body)
    assert (got.customer, got.raw_id, got.message_id) == ("u-1", "u-1", "m-1")
    assert (got.type, got.time) == (kind, 1_795_413_960_123)
    assert got.name == ("Order Completed" if kind == "track" else kind)
    assert got.body["properties"]["revenue"] == 12.1


def test_what_is_missing_is_none() -> None:
    for body in (TRACK, {**TRACK, "messageId": None, "timestamp": None}):
        got = call(body)
        assert (got.message_id, got.time) == (None, None)


@pytest.mark.parametrize(
    ("who", "customer", "raw"),
    [
        ({"userId": "u", "anonymousId": "x"}, "u", "u"),
        ({"userId": "", "anonymousId": "x"}, "a:x", "x"),
        ({"userId": None, "anonymousId": "x"}, "a:x", "x"),
        ({"anonymousId": "a:x"}, "a:a:x", "a:x"),
        ({"userId": "u", "anonymousId": ""}, "u", "u"),
        ({"userId": "u", "anonymousId": "x" * 300}, "u", "u"),  # not read: not judged
        ({"userId": "😀" * 256}, "😀" * 256, "😀" * 256),
        ({"userId": "A:x"}, "A:x", "A:x"),
    ],
)
def test_who_it_is_about(who: dict[str, Any], customer: str, raw: str) -> None:
    got = call({"type": "page", **who})
    assert (got.customer, got.raw_id) == (customer, raw)


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"type": None}, "schema", "type: one of"),
        ({"type": "Track"}, "schema", "got 'Track'"),
        ({"type": []}, "schema", "type: one of"),
        ({"type": "alias"}, "alias", "alias"),
        ({"userId": None}, "customer", "both are missing"),
        ({"userId": ""}, "customer", "both are missing"),
        ({"userId": None, "anonymousId": ""}, "customer", "both are missing"),
        ({"userId": 17}, "customer", "userId: "),
        ({"userId": True}, "customer", "got True"),
        ({"anonymousId": 17}, "customer", "anonymousId: "),
        ({"userId": "a:b"}, "customer", "got 'a:b'"),
        ({"userId": "x" * 257}, "customer", "1 to 256"),
        ({"userId": "x\0"}, "customer", r"got 'x\x00'"),
        ({"userId": None, "anonymousId": "\0"}, "customer", "anonymousId: "),
        ({"messageId": ""}, "schema", "messageId: "),
        ({"messageId": "x" * 257}, "schema", "messageId: "),
        ({"messageId": 5}, "schema", "messageId: "),
        ({"event": None}, "schema", "event: "),
        ({"event": ""}, "schema", "event: "),
        ({"event": "x" * 257}, "schema", "event: "),
        ({"event": {"a": 1}}, "schema", "event: "),
        ({"properties": []}, "schema", "properties: "),
        ({"context": "x"}, "schema", "context: "),
        ({"timestamp": 1795413960123}, "timestamp", "got 1795413960123"),
        ({"timestamp": "2026-11-23T06:06:00"}, "timestamp", "with an offset"),
        ({"timestamp": "yesterday"}, "timestamp", "got 'yesterday'"),
        ({"timestamp": ""}, "timestamp", "got ''"),
        ({"timestamp": "1969-12-31T23:59:59.999Z"}, "timestamp", "1970 to 2200"),
        ({"timestamp": "2201-01-01T00:00:00Z"}, "timestamp", "1970 to 2200"),
    ],
)
def test_a_wrong_call_is_refused(change: dict[str, Any], reason: str, words: str) -> None:
    error = refused(text({**TRACK, **change}))
    assert (error.reason, words in error.message) == (reason, True), error.message


def test_the_first_of_several_faults_counts() -> None:
    """In the order of `docs/semantics.md`, whatever comes first in the text."""
    wrong: dict[str, tuple[object, str]] = {
        "type": ("purchase", "schema"),
        "userId": (17, "customer"),
        "messageId": ("", "schema"),
        "timestamp": ("yesterday", "timestamp"),
        "event": (None, "schema"),
        "properties": ([], "schema"),
        "context": ("web", "schema"),
    }
    right = {**TRACK, "messageId": "m-1", "timestamp": None, "properties": {}, "context": {}}
    for first in range(len(wrong)):
        left = list(wrong.items())[first:]
        body = right | {name: value for name, (value, _) in reversed(left)}
        for mixed in (body, dict(reversed(body.items()))):
            error = refused(text(mixed))
            name, (_, reason) = left[0]
            assert (error.reason, error.message.partition(":")[0]) == (reason, name)
    nobody = {name: value for name, value in right.items() if name != "userId"}
    assert refused(text(nobody | {"timestamp": 5})).reason == "timestamp"
    assert refused(text(nobody | {"context": 5})).reason == "schema"
    assert refused(text(nobody)).reason == "customer"


@pytest.mark.parametrize(
    "extra",
    [
        {"name": 5, "groupId": [], "previousId": {}},
        {"traits": "not read in a track"},
        {"integrations": None, "sentAt": "never", "version": 2},
        {"properties": None, "context": None},
        {"unread": {"deep": [[[]]]}},
    ],
)
def test_unknown_fields_are_ignored(extra: dict[str, Any]) -> None:
    assert call({**TRACK, **extra}).name == "Order Completed"


# --- envelopes ------------------------------------------------------------------------------


def test_binary_cloudevents_stand_in_for_what_is_missing() -> None:
    headers: list[tuple[str, bytes | None]] = [
        ("ce_type", b"shop.event"),
        ("ce_id", b"ce-1"),
        ("ce_time", b"2026-11-23T06:06:00Z"),
    ]
    got = call(TRACK, headers)
    assert (got.message_id, got.time) == ("ce-1", 1_795_413_960_000)
    own = call({**TRACK, "messageId": "m-1", "timestamp": "1970-01-01T00:00:00Z"}, headers)
    assert (own.message_id, own.time) == ("m-1", 0)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([("ce_type", b"x"), ("ce_id", b"")], "schema"),
        ([("ce_type", b"x"), ("ce_id", b"i" * 257)], "schema"),
        ([("ce_type", b"x"), ("ce_time", b"noon")], "timestamp"),
        ([("ce_type", b"\xff")], "schema"),
        ([("ce_type", b"x"), ("ce_id", b"\xff")], "schema"),
    ],
)
def test_wrong_attributes_are_refused(headers: list[tuple[str, bytes | None]], reason: str) -> None:
    assert refused(text(TRACK), headers).reason == reason


def test_structured_cloudevents_hold_the_call() -> None:
    got = call({**CLOUD, "time": "2026-11-23T06:06:00Z", "data": TRACK}, [*STRUCTURED])
    assert (got.customer, got.message_id, got.time) == ("u-1", "ce-1", 1_795_413_960_000)
    assert got.body["event"] == "Order Completed"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"data": None}, "schema"),
        ({"data": [TRACK]}, "schema"),
        ({"data": {"type": "alias"}}, "alias"),
        ({"data": {**TRACK, "userId": ""}}, "customer"),
        ({"id": ""}, "schema"),
        ({"id": None}, "schema"),
        ({"id": "i" * 257}, "schema"),
        ({"source": 5}, "schema"),
        ({"specversion": ""}, "schema"),
        ({"type": ""}, "schema"),
        ({"time": "noon"}, "timestamp"),
        ({"time": 5}, "schema"),
    ],
)
def test_a_wrong_structured_envelope_is_refused(change: dict[str, Any], reason: str) -> None:
    assert refused(text({**CLOUD, "data": TRACK, **change}), [*STRUCTURED]).reason == reason


def test_a_structured_envelope_without_data_is_refused() -> None:
    assert "data" in refused(text(CLOUD), [*STRUCTURED]).message
    assert refused(b"[]", [*STRUCTURED]).reason == "json"


def test_headers_decide_the_envelope() -> None:
    assert envelope_of(None).mode == "plain"
    assert envelope_of([("content-type", b"application/json")]).mode == "plain"
    assert envelope_of([("ce_type", None)]).mode == "plain"
    assert envelope_of([*STRUCTURED]).mode == "structured"
    assert envelope_of([*STRUCTURED, ("ce_type", b"t")]).mode == "binary"
    assert envelope_of([("ce_type", b"old"), ("ce_type", b"new")]).type == "new"


# --- control events -------------------------------------------------------------------------


def control(kind: str) -> list[tuple[str, bytes | None]]:
    return [("ce_specversion", b"1.0"), ("ce_type", kind.encode())]


def test_control_events_are_read() -> None:
    data = {"version": 3, "digest": DIGEST}
    clock = {"time": "2026-11-23T07:06:00+01:00"}
    moved = ClockControl(1_795_413_960_000)
    assert read(text(data), control("segstream.model")) == ModelControl(3, DIGEST)
    assert read(text(clock), control("segstream.clock")) == moved
    inside = {**CLOUD, "type": "segstream.clock", "data": clock}
    assert read(text(inside), [*STRUCTURED]) == moved


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("segstream.model", None),
        ("segstream.model", b"nonsense"),
        ("segstream.model", b"[]"),
        ("segstream.model", text({"version": 0, "digest": DIGEST})),
        ("segstream.model", text({"version": True, "digest": DIGEST})),
        ("segstream.model", text({"version": 1.0, "digest": DIGEST})),
        ("segstream.model", text({"version": "1", "digest": DIGEST})),
        ("segstream.model", text({"version": 1, "digest": DIGEST.upper()})),
        ("segstream.model", text({"version": 1})),
        ("segstream.model", text({"version": 1, "digest": DIGEST, "x" * 5000: 1})),
        ("segstream.clock", text({"time": 5})),
        ("segstream.clock", text({"time": "2026-11-23T06:06:00"})),
        ("segstream.clock", text({"time": "2201-01-01T00:00:00Z"})),
        ("segstream.erase", text({})),
        ("segstream.", text(TRACK)),
    ],
)
def test_a_wrong_control_event_is_refused(kind: str, value: bytes | None) -> None:
    assert refused(value, control(kind)).reason == "control"


def test_a_type_that_only_looks_like_control_is_a_call() -> None:
    assert call(TRACK, control("segstreams")).customer == "u-1"


# --- time -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00.000999Z", 0),
        ("1970-01-01T00:00:00.0009994999Z", 0),
        ("1970-01-01T00:00:00.0009995Z", 1),  # rounded to microseconds first, as msgspec does
        ("1970-01-01T00:00:00.9999999Z", 1000),
        ("1969-12-31T23:59:59.9999999Z", 0),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T01:00:00+0100", 0),
        ("1969-12-31T23:30:00-00:30", 0),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("2200-12-31T23:59:59.999Z", 7_289_654_399_999),
        ("2201-01-01T00:59:59+01:00", 7_289_654_399_000),
    ],
)
def test_times(written: str, ms: int) -> None:
    assert parse_time(written) == ms


@pytest.mark.parametrize(
    "written",
    [
        "1970-01-01T00:00:00+00:01",
        "2200-12-31T23:59:59.9999999Z",
        "2026-02-29T00:00:00Z",
        "2026-11-23T24:00:00Z",
        "2026-11-23T23:59:60Z",
        "2026-11-23T06:06Z",
        "2026-11-23T06:06:00.Z",
        "2026-11-23T06:06:00,5Z",
        "2026-11-23T06:06:00+01",
        "2026-11-23T06:06:00+24:00",
        "2026-11-23",
        " 2026-11-23T06:06:00Z",
        "2026-11-23T06:06:00Z\n",
        "２０２６-11-23T06:06:00Z",
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59.9999999-23:59",
    ],
)
def test_what_is_no_time(written: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_time(written)
    assert caught.value.reason == "timestamp"


class Fast(msgspec.Struct):
    """As a compiled decoder declares it."""

    timestamp: Annotated[datetime, msgspec.Meta(tz=True)]


FAST = msgspec.json.Decoder(Fast)
times = st.from_regex(
    r"(19[67]\d|2026|2200|2201)-[01]\d-[0-3]\d[Tt ][0-2]\d:[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"(Z|z|[+-][0-2]\d:?[0-5]\d)",
    fullmatch=True,
)


@given(times)
def test_a_compiled_decoder_and_the_authority_read_equal_times(written: str) -> None:
    try:
        fast = ms_of(FAST.decode(text({"timestamp": written})).timestamp)
    except msgspec.ValidationError:
        with pytest.raises(Invalid):
            parse_time(written)
        return
    try:
        assert parse_time(written) == fast
    except Invalid:
        assert not 0 <= fast < 7_289_654_400_000


# --- JSON -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b" ",
        b"null",
        b"[]",
        b'"track"',
        b"{} {}",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":1,}',
        b"\xff\xfe{\x00}\x00",
        b'{"a":' * 100_000,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":"' + b"x" * 2_000_000,
    ],
)
def test_what_is_not_a_json_object_is_refused(value: bytes | None) -> None:
    assert refused(value).reason == "json"


def test_depth_has_a_limit_of_its_own() -> None:
    def nested(levels: int) -> bytes:
        inner = b"[" * (levels - 1) + b'"[{"' + b"]" * (levels - 1)
        return text(TRACK)[:-1] + b',"unread":' + inner + b"}"

    assert isinstance(read(nested(MAX_DEPTH)), Call)
    assert "deeper" in refused(nested(MAX_DEPTH + 1)).message
    flat = {**TRACK, "brackets": "[" * 1000, "lists": [[]] * 1000}
    assert isinstance(read(text(flat)), Call)


def test_numbers_have_no_bounds_until_they_are_read() -> None:
    numbers = "[1, -0, 1.10, 1e3, 18446744073709551616, 1e999, -1e-9999999999999999999999]"
    beyond = "9" * 22
    huge = f"[1e{beyond}, -1e{beyond}, 0e{beyond}, {'9' * 9999}]"
    value = text(TRACK)[:-1] + f',"properties":{{"n":{numbers},"huge":{huge}}}}}'.encode()
    reading = read(value)
    assert isinstance(reading, Call)
    got = reading.body["properties"]
    assert got["n"] == [1, 0, 1.1, 1000, 2**64, math.inf, 0]
    assert got["huge"] == [math.inf, -math.inf, 0, math.inf]


def test_the_last_of_duplicate_keys_counts() -> None:
    value = b'{"type":"page","userId":"a:x","userId":"u","properties":{"a":1},"properties":{}}'
    reading = read(value)
    assert isinstance(reading, Call)
    assert (reading.customer, reading.body["properties"]) == ("u", {})


class Unread(msgspec.Struct):
    """A compiled decoder that skips all it finds."""


SKIP = msgspec.json.Decoder(Unread)


def skips(value: bytes) -> bool:
    try:
        SKIP.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return skimmable(value)


def test_what_a_skipping_decoder_accepts_of_the_json_test_suite_is_accepted() -> None:
    """The fast path skips what is not read: it must not skip what `read` refuses."""
    for name, raw in bad_input.suite():
        value = b'{"type":"page","userId":"u","unread":' + raw + b"}"
        assert isinstance(attempt(value), Call) or not skips(value), name


def test_naughty_strings_as_ids_are_kept_as_they_are() -> None:
    for raw in bad_input.strings():
        string = raw.decode(errors="replace")  # some are cut within a character
        reading = attempt(json.dumps({**TRACK, "userId": string}, ensure_ascii=False).encode())
        assert not string or isinstance(reading, Call)
        assert not isinstance(reading, Call) or reading.customer == string


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fields = ["userId", "anonymousId", "messageId", "timestamp", "event", "properties", "context"]
calls = st.fixed_dictionaries(
    {"type": st.sampled_from(["track", "identify", "page", "screen", "group", "alias"])},
    optional={name: anything | st.text(max_size=300) | times for name in fields},
)


@given(calls | anything, st.sampled_from([None, [*STRUCTURED], control("segstream.clock")]))
def test_any_json_is_read_or_refused(body: object, headers: Any) -> None:
    attempt(text(body), headers)


@given(
    st.binary(max_size=64) | st.none(),
    st.lists(
        st.tuples(
            st.sampled_from(["ce_type", "ce_id", "ce_time", "content-type"]),
            st.binary(max_size=24) | st.none() | st.just(b"segstream.model"),
        ),
        max_size=3,
    ),
)
def test_any_bytes_are_read_or_refused(value: bytes | None, headers: Any) -> None:
    attempt(value, headers)


@given(st.binary(max_size=24))
def test_what_a_skipping_decoder_accepts_is_accepted(junk: bytes) -> None:
    value = b'{"type":"page","userId":"u","unread":' + junk + b"}"
    if skips(value) and b'"' not in junk:
        assert isinstance(attempt(value), Call)


@given(anything)
def test_values_are_shown_short_and_printable(value: object) -> None:
    assert len(shown(value)) <= 100
    assert shown(value).isprintable()


@pytest.mark.parametrize(
    "value",
    [b"{", b'{"type":"track"}', b'{"type":"page"}', b'{"type":"page","userId":"a:b"}'],
)
def test_a_refusal_is_free_as_soon_as_it_is_handled(value: bytes) -> None:
    """A cycle through pydantic's memory would never be collected: bad input would fill it."""

    def refused() -> weakref.ref[Invalid]:
        try:
            read(value)
        except Invalid as error:
            return weakref.ref(error)
        raise AssertionError("accepted")

    assert refused()() is None
