"""Small examples, computed by hand, that hold the oracle to docs/semantics.md.

All on one partition of one, with a window of 3 panes of a day, unless an example says more.
"""

import datetime
import hashlib
import json
from typing import Any

import pytest
from pydantic import BaseModel

from segstream.core.record import (
    Change,
    DayMarker,
    Membership,
    ModelRecord,
    Sample,
    digest_of,
)
from tests.oracle import Oracle, Output
from tests.oracle_reading import Headers, Rejected, instant, murmur2
from tests.streams import generate
from tests.streams_config import canonical_digest

MINUTE, DAY = 60_000, 86_400_000
NOON = 1_772_366_400_000  # 2026-03-01T12:00:00Z
MIDNIGHT = 1_772_409_600_000  # 2026-03-02T00:00:00Z
CONFIG: dict[str, Any] = {
    "measures": {
        "orders": {"kind": "count", "events": ["Order"]},
        "spend": {"kind": "sum", "events": ["Order"], "field": "properties.total"},
    },
    "features": {"orders": {"expression": "orders[3d]"}},
}


def hash_of(customer: str) -> int:
    return int.from_bytes(hashlib.blake2b(customer.encode(), digest_size=8).digest(), "big")


def tick_of(customer: str, after: int) -> int:
    """The customer's first daily tick after that time, ms."""
    minute = after // MINUTE + 1
    while minute % 1440 != hash_of(customer) % 1440:
        minute += 1
    return minute * MINUTE


def names(count: int, wanted: Any) -> list[str]:
    """The first ids `u-0`, `u-1`, … whose hash is as wanted."""
    found = (name for i in range(10**6) if wanted(hash_of(name := f"u-{i}")))
    return [next(found) for _ in range(count)]


def model(
    version: int, centres: dict[int, list[float]], features: dict[str, str] | None = None
) -> dict[str, Any]:
    """A version in whose space the raw values stand as they are; names `s1`, `s2`, …"""
    record = {
        "model": version,
        "features": [
            {
                "name": name,
                "expression": expression,
                "transform": "none",
                "clip": [-1e6, 1e6],
                "fill": 0.0,
                "mean": 0.0,
                "scale": 1.0,
                "weight": 1.0,
            }
            for name, expression in (features or {"orders": "orders[3d]"}).items()
        ],
        "segments": [
            {"segment": segment, "name": f"s{segment}", "centre": centre}
            for segment, centre in centres.items()
        ],
        "retired": [],
    }
    return {**record, "digest": canonical_digest(record)}


class Log:
    """Feeds an oracle, one offset after the other, append time = event time unless given."""

    def __init__(self, *models: dict[str, Any], **config: Any) -> None:
        self.oracle = Oracle(
            {**CONFIG, **config},
            partition=0,
            partitions=1,
            models={m["model"]: m for m in models},
        )
        self.offset = 0

    def feed(self, append_time: int, value: Any, headers: Headers | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.oracle.feed(self.offset, append_time, headers, body)
        self.offset += 1

    def order(self, time: int, customer: str = "u", **body: Any) -> None:
        """An order at that time (appended then); `total` is JSON text."""
        total, appended = body.pop("total", "0"), body.pop("appended", time)
        call = {"type": "track", "event": "Order", "userId": customer, **body}
        text = json.dumps({**call, "timestamp": iso(time), "properties": {"total": "@"}})
        self.feed(appended, text.replace('"@"', total).encode())

    def control(self, kind: str, data: dict[str, Any], append_time: int = NOON) -> None:
        self.feed(append_time, data, [("ce_type", f"segstream.{kind}".encode())])

    def clock(self, time: int) -> None:
        self.control("clock", {"time": iso(time)}, time)

    def activate(self, version: int) -> None:
        digest = self.oracle.models[version]["digest"]
        self.control("model", {"version": version, "digest": digest})

    def outputs(self, topic: str) -> list[Output]:
        return [output for output in self.oracle.outputs if output.topic == topic]

    def changes(self) -> list[dict[str, Any]]:
        return [output.value for output in self.outputs("changes") if output.value]

    @property
    def counts(self) -> dict[str, int]:
        return {k: n for k, n in self.oracle.checkpoint()["counts"].items() if n}

    def state(self, customer: str = "u") -> dict[str, Any]:
        return self.oracle.states()[customer]


def iso(time: int) -> str:
    days, ms = divmod(time, DAY)
    seconds, ms = divmod(ms, 1000)
    date = str(datetime.date.fromordinal(719_163 + days))
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{date}T{clock}.{ms:03}Z"


# --- reading --------------------------------------------------------------------------------


def test_murmur2_is_that_of_the_java_client() -> None:
    known = {"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536}
    assert {text: murmur2(text.encode()) - 2**32 for text in known} == known


def test_an_instant_is_cut_to_the_millisecond() -> None:
    assert instant("2026-03-01T12:00:00.0019Z") == NOON + 1
    assert instant("2026-03-01T13:30:00+01:30") == NOON
    for text in ("1969-12-31T23:59:59.9999Z", "2201-01-01T00:00:00Z"):
        with pytest.raises(Rejected, match="timestamp"):
            instant(text)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"type": "track", "event": "Order"}, "customer"),
        ({"type": "page", "userId": "a:7"}, "customer"),
        ({"type": "alias", "userId": "u"}, "alias"),
        ({"type": "page", "userId": "u", "timestamp": "2203-01-01T00:00:00Z"}, "timestamp"),
        ({"type": "page", "userId": "u", "timestamp": "2026-03-01T00:00:00"}, "timestamp"),
        ({"type": "track", "userId": "u", "event": "Order", "properties": {"total": -1}}, "value"),
        (
            {"type": "track", "userId": "u", "event": "Order", "properties": {"total": True}},
            "value",
        ),
        ({"type": "track", "userId": "u"}, "schema"),
        ([], "json"),
        (b"{", "json"),
    ],
)
def test_a_dead_letter_has_a_reason_and_moves_no_clock(body: Any, reason: str) -> None:
    log = Log()
    log.order(NOON)
    log.feed(NOON + DAY, body)
    (letter,) = log.outputs("dead_letters")
    assert (letter.reason, letter.position) == (reason, (2, NOON))
    assert log.counts == {"valid": 1, "dead_letters": 1}


def test_cloud_events_stand_in_for_what_is_missing() -> None:
    log = Log(model(1, {1: [0.0]}))
    log.activate(1)
    call = {"type": "track", "anonymousId": "v", "event": "Order", "messageId": None}
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "shop.call"}
    structured = ("content-type", b"application/cloudevents+json")
    log.feed(NOON, {**event, "time": iso(NOON - 5), "data": call}, [structured])
    log.feed(NOON, call, [("ce_type", b"shop.call"), ("ce_id", b"e-1")])
    assert log.counts == {"control": 1, "valid": 1, "duplicates": 1}
    (change,) = log.changes()
    assert (change["customer"], change["event"]) == ("a:v", {"id": "e-1", "name": "Order"})
    assert change["at"] == iso(NOON - 5)


def stray_log(partitions: int = 2) -> tuple[Log, bytes]:
    """A log of partition 0, and a call of a customer of partition 1."""
    log = Log()
    log.oracle.partitions = partitions
    name = next(n for n in map(str, range(99)) if (murmur2(n.encode()) & 0x7FFFFFFF) % 2)
    return log, json.dumps({"type": "page", "userId": name}).encode()


def test_a_call_on_a_wrong_partition_goes_on_with_the_time_of_its_first_append() -> None:
    log, call = stray_log()
    log.feed(NOON, call, [("trace", b"1"), ("segstream.hops", b"x")])
    first = [("segstream.hops", b"1"), ("segstream.appended", iso(NOON).encode())]
    log.feed(NOON + 5, call, [*first, ("trace", None)])
    once, twice = log.outputs("events")
    assert (once.target, once.value, once.headers) == (1, call, [("trace", b"1"), *first])
    assert twice.headers == [("trace", None), ("segstream.hops", b"2"), first[1]]
    assert log.counts == {"forwarded": 2}
    assert log.oracle.clock == 0


def test_a_call_is_forwarded_three_times_at_most() -> None:
    log, call = stray_log()
    for hops in (b"2", b"3", b"999999999", b"9999999999"):
        log.feed(NOON, call, [("segstream.hops", hops)])
    assert log.counts == {"forwarded": 2, "dead_letters": 2}
    assert [letter.reason for letter in log.outputs("dead_letters")] == ["partition"] * 2


def test_a_forwarded_call_without_a_time_has_that_of_its_first_append() -> None:
    log = Log()
    log.feed(
        NOON, {"type": "page", "userId": "u"}, [("segstream.appended", iso(NOON - 7).encode())]
    )
    assert (log.counts, log.oracle.clock) == ({"valid": 1}, NOON - 7)


def test_what_is_too_large_is_cut_and_what_cannot_carry_two_headers_more_is_not_forwarded() -> None:
    log, call = stray_log()
    spaces = b" " * (10 * 2**20 - len(call) - 10 - len("trace"))
    log.feed(NOON, call + spaces + b" ", [("trace", None)])
    log.feed(NOON, call + spaces, [("trace", None)])
    log.feed(NOON, call + spaces[65_536:], [("trace", None)])
    size, partition = log.outputs("dead_letters")
    assert (size.reason, size.value) == ("size", (call + spaces)[: 2**20])
    assert size.headers is not None
    assert size.headers[-1] == ("segstream.errors.size", b"10485761")
    assert partition.reason == "partition"
    assert log.counts == {"dead_letters": 2, "forwarded": 1}


def test_money_is_rounded_half_to_even_on_its_decimal_text() -> None:
    for text, cents in {"2.675": 268, "2.665": 266, "0.005": 0, "0.015": 2, "1e-7": 0}.items():
        log = Log()
        log.order(NOON, total=text)
        kept = {NOON // DAY: cents} if cents else {}
        assert log.state()["panes"]["spend"] == kept, text


def test_a_full_pane_cuts_each_further_value() -> None:
    log = Log(features={"both": {"expression": "orders[3d] + spend[3d]"}})
    for _ in range(3):  # 3·10⁹ cents each; 4,294,967,295 fit
        log.order(NOON, total="30000000")
    log.order(NOON, total="0")
    assert log.state()["panes"] == {
        "orders": {NOON // DAY: 4},
        "spend": {NOON // DAY: 4_294_967_295},
    }
    assert log.counts == {"valid": 4, "saturated": 2}


# --- clock, ticks ---------------------------------------------------------------------------


def test_event_times_beyond_the_append_time_are_clamped() -> None:
    log = Log()
    log.order(NOON + 9 * DAY, appended=NOON)
    assert log.oracle.checkpoint()["position"] == (1, NOON)
    assert log.counts == {"valid": 1, "skewed": 1}
    assert log.state()["last"] == NOON


def test_a_jump_of_ten_days_ticks_each_customer_once_within_the_last_day() -> None:
    log = Log(tick={"period": "1d"}, features={"orders": {"expression": "orders[30d]"}})
    log.order(NOON, "u-1")
    log.order(NOON, "u-2")
    before = len(log.oracle.outputs)
    end = NOON + 10 * DAY
    log.clock(end)
    ticks = sorted([tick_of("u-1", end - DAY), tick_of("u-2", end - DAY)])
    midnight = MIDNIGHT + 9 * DAY
    positions = [output.position for output in log.oracle.outputs[before:]]
    assert positions == sorted([(2, ticks[0]), (2, ticks[1]), (2, midnight)])
    assert log.oracle.checkpoint()["position"] == (3, end)


def test_a_step_of_exactly_the_period_is_no_jump() -> None:
    log = Log()
    log.order(MIDNIGHT - 1)
    log.clock(MIDNIGHT - 1 + DAY)
    assert [o.value and o.value["day"] for o in log.outputs("samples") if o.key == "day-0"] == [
        iso(MIDNIGHT - DAY),
        iso(MIDNIGHT),
    ]


def test_ticks_of_a_minute_go_by_bytes_then_the_marker_then_the_event() -> None:
    z, a = "z", "é"  # "z" is 7A, "é" is C3 A9: before it in bytes
    log = Log(model(1, {1: [0.0]}), tick={"period": "1m"})
    log.order(MIDNIGHT - 1, a)
    log.order(MIDNIGHT - 1, z)
    log.activate(1)
    before = len(log.oracle.outputs)
    log.order(MIDNIGHT, z)
    found = [(o.topic, o.key, o.position) for o in log.oracle.outputs[before:]]
    at = (3, MIDNIGHT)
    assert found == [
        ("changes", z, at),
        ("memberships", z, at),
        ("samples", f"{hash_of(z):016x}", at),
        ("changes", a, at),
        ("memberships", a, at),
        ("samples", f"{hash_of(a):016x}", at),
        ("samples", "day-0", at),
    ]
    assert log.outputs("changes")[0].ce_id == f"0-3-{MIDNIGHT // MINUTE}-{hash_of(z):016x}"


def test_a_tick_at_the_very_clock_has_been_already() -> None:
    """c < m: the same instant again ticks nobody twice."""
    log = Log(tick={"period": "1m"})
    log.order(MIDNIGHT)
    log.order(MIDNIGHT)
    assert [o.key for o in log.outputs("samples")] == ["day-0"]


# --- events ---------------------------------------------------------------------------------


def test_late_is_an_event_whose_pane_has_left_the_longest_window() -> None:
    log = Log()
    log.order(NOON)
    log.order(MIDNIGHT - 3 * DAY, appended=NOON)  # pane P − 2: the first one inside
    log.order(MIDNIGHT - 3 * DAY - 1, appended=NOON)  # pane P − 3
    assert log.counts == {"valid": 2, "late": 1}
    pane = NOON // DAY
    assert log.state()["panes"]["orders"] == {pane: 1, pane - 2: 1}


def test_the_ring_knows_the_last_sixteen_accepted_ids() -> None:
    log = Log()
    for i in range(17):
        log.order(NOON, messageId=f"m-{i}")
    log.order(NOON, messageId="m-1")  # the oldest of sixteen
    log.order(NOON, messageId="m-0")  # forgotten: accepted again, which pushes m-1 out
    log.order(NOON, messageId="m-1")
    assert log.counts == {"valid": 19, "duplicates": 1}


def test_duplicates_and_late_events_move_the_clock() -> None:
    log = Log()
    log.order(NOON, messageId="m")
    log.order(NOON + 1, messageId="m")
    assert log.oracle.checkpoint()["position"] == (2, NOON + 1)
    assert log.state()["recency"] == {"orders": NOON, "spend": NOON}


def test_last_takes_the_greatest_time_then_the_greatest_offset() -> None:
    log = Log(traits={"age": {"kind": "number"}, "size": {"kind": "ordinal", "values": ["S", "M"]}})

    def identify(time: int, **traits: Any) -> None:
        log.feed(
            NOON, {"type": "identify", "userId": "u", "timestamp": iso(time), "traits": traits}
        )

    identify(NOON - 1, age=30, size="M")
    identify(NOON - 2, age=20, size="S")
    assert log.state()["values"] == {"age": (30.0, NOON - 1), "size": (1.0, NOON - 1)}
    identify(NOON - 1, age=31, size="XL")
    identify(NOON, age=None)
    assert log.state()["values"] == {"age": (31.0, NOON - 1), "size": (2.0, NOON - 1)}


# --- rows -----------------------------------------------------------------------------------


def test_the_nearest_segment_and_at_a_tie_the_lowest_id() -> None:
    log = Log(model(1, {7: [2.0], 3: [0.0]}))
    log.activate(1)
    log.order(NOON)  # 1 order: as far from 0 as from 2
    (change,) = log.changes()
    assert (change["cause"], change["rule"], change["from"]) == ("first", None, None)
    assert change["to"] == {"segment": 3, "name": "s3"}
    assert change["distance"] == {"from": None, "to": 1.0}
    assert log.outputs("changes")[0].ce_id == "0-1"
    assert log.outputs("memberships")[0].value == {
        "customer": "u",
        "segment": 3,
        "name": "s3",
        "since": iso(NOON),
        "at": iso(NOON),
        "model": 1,
        "sequence": 1,
    }


def test_clear_moves_at_once_and_held_after_five_days() -> None:
    """Centres 0 and 11. 6 orders: 5 ≤ 0.9·6, not ≤ 0.75·6: held. 7 orders: 4 ≤ 0.75·7: clear."""
    windows = {"orders": {"expression": "orders[30d]"}}
    log = Log(model(1, {1: [0.0], 2: [11.0]}, {"orders": "orders[30d]"}), features=windows)
    log.activate(1)
    for _ in range(6):
        log.order(NOON, "held")
        log.order(NOON, "clear")
    assert (log.state("held")["pending"], log.state("held")["pending_since"]) == (2, NOON)
    log.order(NOON + 1, "clear")
    log.clock(NOON + 5 * DAY - 1)
    assert [(c["customer"], c["rule"]) for c in log.changes()[2:]] == [("clear", "clear")]
    for day in (6, 7):
        log.clock(NOON + day * DAY)
    change = log.changes()[-1]
    due = tick_of("held", NOON + 5 * DAY - 1)
    assert (change["customer"], change["rule"], change["cause"]) == ("held", "held", "time")
    assert (change["at"], change["event"], change["sequence"]) == (iso(due), None, 2)
    assert change["distance"] == {"from": 6.0, "to": 5.0}
    assert change["reasons"] == [{"feature": "orders", "value": 6.0, "share": 1.0}]
    assert (log.state("held")["since"], log.state("held")["pending"]) == (due, None)


def test_a_pending_move_is_cleared_by_a_row_that_is_not_near_enough() -> None:
    """Centres 0 and 11: 6 orders are pending; 3 days later they have left, and 1 is near 0."""
    log = Log(model(1, {1: [0.0], 2: [11.0]}))
    log.activate(1)
    for _ in range(6):
        log.order(NOON)
    assert log.state()["pending"] == 2
    log.order(NOON + 3 * DAY)
    assert (log.state()["pending"], log.state()["segment"]) == (None, 1)


def test_the_cause_is_the_model_when_the_old_version_would_have_kept_the_customer() -> None:
    log = Log(model(1, {1: [0.0], 2: [9.0]}), model(2, {1: [20.0], 2: [1.0]}))
    log.activate(1)
    log.order(NOON, "a")
    for _ in range(7):
        log.order(NOON, "b")
    log.activate(2)
    log.order(NOON, "a")  # 2 orders: segment 1 under version 1, 2 under version 2
    for _ in range(10):
        log.order(NOON, "b")  # 17 orders at the end: version 1 says 2, version 2 says 1
    found = [(c["customer"], c["cause"], c["rule"], c["to"]["segment"]) for c in log.changes()]
    assert found == [
        ("a", "first", None, 1),
        ("b", "first", None, 1),
        ("b", "behaviour", "clear", 2),
        ("a", "model", "clear", 2),
        ("b", "behaviour", "clear", 1),
    ]


def test_a_retired_segment_is_left_and_named_by_the_newest_version_that_has_it() -> None:
    renamed = model(2, {1: [0.0], 2: [9.0]})
    renamed["segments"][0]["name"] = "renamed"
    log = Log(model(1, {1: [0.0], 2: [9.0]}), renamed, model(3, {2: [4.0], 5: [1.0]}))
    log.activate(1)
    log.order(NOON)
    log.activate(3)
    log.order(NOON)
    change = log.changes()[-1]
    assert (change["rule"], change["cause"], change["model"]) == ("retired", "model", 3)
    assert change["from"] == {"segment": 1, "name": "renamed"}
    assert change["to"] == {"segment": 5, "name": "s5"}
    assert change["distance"] == {"from": None, "to": 1.0}
    assert change["reasons"] == [{"feature": "orders", "value": 2.0, "share": 1.0}]  # 4 − 1 of 3


def test_reasons_are_shares_of_the_difference_of_squared_distances() -> None:
    """z = (1, 0, 5): (1 − 0) + (0 − 4) + (25 − 1) = 21, so 24/21, 1/21; −4/21 is not listed."""
    features = {"orders": "orders[3d]", "nothing": "0 * orders[3d]", "five": "orders[3d] * 5"}
    log = Log(model(1, {1: [1.0, 2.0, 4.0]}, features))
    log.activate(1)
    log.order(NOON)
    assert log.changes()[0]["reasons"] == [
        {"feature": "five", "value": 5.0, "share": round(24 / 21, 6)},
        {"feature": "orders", "value": 1.0, "share": round(1 / 21, 6)},
    ]


def test_no_reasons_when_the_segment_entered_is_farther_than_the_panel_mean() -> None:
    log = Log(model(1, {1: [9.0]}))
    log.activate(1)
    log.order(NOON)
    assert log.changes()[0]["reasons"] == []


def test_a_tick_that_changes_nothing_leaves_the_rings_as_they_were() -> None:
    log = Log(model(1, {1: [0.0]}))
    log.activate(1)
    log.order(NOON)
    log.order(NOON - 2 * DAY, appended=NOON)
    panes = {NOON // DAY - 2: 1, NOON // DAY: 1}
    assert log.state()["panes"]["orders"] == panes
    for day in (1, 2, 3):
        log.clock(NOON + day * DAY)
    assert log.state()["panes"]["orders"] == panes


def test_a_customer_silent_for_two_windows_is_forgotten_at_its_tick() -> None:
    log = Log(model(1, {1: [0.0]}))
    log.activate(1)
    log.order(NOON)
    for day in range(1, 8):
        log.clock(NOON + day * DAY)
    tick = tick_of("u", NOON + 6 * DAY - 1)
    assert log.oracle.states() == {}
    assert log.outputs("changes")[-1].value == {
        "customer": "u",
        "sequence": 2,
        "from": {"segment": 1, "name": "s1"},
        "to": None,
        "cause": "forgotten",
        "rule": None,
        "at": iso(tick),
        "event": None,
        "model": 1,
        "distance": None,
        "reasons": None,
    }
    gone = [(o.topic, o.key, o.position[1]) for o in log.oracle.outputs if o.value is None]
    assert gone == [("memberships", "u", tick), ("samples", f"{hash_of('u'):016x}", tick)]
    assert sum(log.oracle.checkpoint()["born"]) == 0
    log.order(NOON + 9 * DAY)
    assert log.changes()[-1]["sequence"] == 1


# --- control, panel, samples ----------------------------------------------------------------


def test_a_version_applies_once_and_only_forwards() -> None:
    log = Log(model(1, {1: [0.0]}), model(2, {1: [0.0]}))
    for version in (2, 2, 1):
        log.activate(version)
    log.control("model", {"version": 3, "digest": "0" * 64})
    log.control("erase", {})
    assert log.oracle.checkpoint()["model"] == 2
    assert log.counts == {"control": 5}
    assert [o.reason for o in log.outputs("dead_letters")] == ["model", "control"]


def test_the_panel_level_rises_until_the_panel_fits_and_never_falls() -> None:
    """Room for 1: of levels 0, 2, 2 the first two need level 1, all three level 3."""
    (low,) = names(1, lambda h: h >> 63 == 1)
    high, higher = names(2, lambda h: h >> 61 == 1)
    log = Log(panel={"size": 1})
    levels = []
    for customer in (low, high, higher):
        log.order(NOON, customer)
        levels.append(log.oracle.checkpoint()["level"])
    assert levels == [0, 1, 3]
    assert log.oracle.checkpoint()["born"][:4] == [1, 0, 2, 0]
    log.clock(NOON + DAY)  # no Model: nobody is in the panel, nobody ticks
    assert [o.key for o in log.outputs("samples")] == ["day-0", "day-0"]


def test_a_sample_holds_the_configured_features_as_float32_text() -> None:
    third = {
        "third": {"expression": "orders[3d] / 3"},
        "basket": {"expression": "spend[3d] / (orders[3d] - 1)"},
        "recency": {"expression": "recency(orders)"},
    }
    log = Log(features=third)
    tick = tick_of("u", NOON)
    log.order(tick - DAY // 2)
    log.clock(tick)
    (sample,) = [o for o in log.outputs("samples") if o.key != "day-0"]
    assert (sample.key, sample.position) == (f"{hash_of('u'):016x}", (1, tick))
    assert sample.value == {
        "partition": 0,
        "level": 0,
        "at": iso(tick),
        "features": log.oracle.features_id,
        "values": [0.33333334, None, 0.5],
    }


# --- random streams -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_is_reproducible_and_its_records_are_valid(seed: int) -> None:
    stream = generate(seed, disputed=seed % 2 == 1)
    assert stream == generate(seed, disputed=seed % 2 == 1)
    for version in stream.models.values():
        assert ModelRecord.model_validate(version).digest == digest_of(version)
    oracle = Oracle(
        stream.config,
        partition=stream.partition,
        partitions=stream.partitions,
        partitioner=stream.partitioner,
        models=stream.models,
    )
    for record in stream.records:
        oracle.feed(*record)
    kinds: dict[str, type[BaseModel]] = {"changes": Change, "memberships": Membership}
    for output in oracle.outputs:
        if output.value is not None and output.topic == "samples":
            kind: type[BaseModel] = DayMarker if str(output.key).startswith("day-") else Sample
            kind.model_validate(output.value)
        elif output.value is not None and output.topic in kinds:
            kinds[output.topic].model_validate(output.value)
    counts = oracle.checkpoint()["counts"]
    outcomes = sum(counts.values()) - counts["skewed"] - counts["saturated"]
    assert outcomes == len(stream.records)
    assert [o.position for o in oracle.outputs] == sorted(o.position for o in oracle.outputs)
