"""A dead letter is the record as it came, and words about it that stay few whatever came."""

import json
from typing import Any

import pytest

from segstream.core.forward import UNREADABLE
from segstream.core.output import MOST_TEXT, Output
from segstream.core.step import Partition
from tests.harness import RETAIL, Run, columns
from tests.oracle import Record

NOW = 2_000_000_000_000
LONG = "\N{LINEAR B SYLLABLE B008 A}" * 2_200_000  # 8.8 MB, printable: nothing of it is escaped
CODES = [f"{a}{b}{c}" for a in "ABCDEFGH" for b in "ABCDEFGH" for c in "ABCDEFGH"]
CONFIG = {
    **RETAIL,
    "measures": {**RETAIL["measures"], "spend": {**RETAIL["measures"]["spend"], "money": True}},
    "money": {"base": "GBP", "rates": {"2026-01-01": dict.fromkeys(CODES, 1.0)}},
}
"""With many currencies, all of which a message would name."""
Headers = Any  # with null values, which the streams of the oracle do not have


def letter(value: bytes | None, headers: Headers = None, number: int = 0) -> Output:
    """The one output that a record leads to."""
    run = Run(CONFIG, {}, Partition(number, 2, "murmur2", "customer-events"))
    run.batch(columns([Record(7, NOW, headers, value)]))
    (output,) = run.outputs
    assert output.topic == "dead_letters"
    return output


def call(**fields: Any) -> bytes:
    body = {"type": "track", "event": "Order Completed", "userId": "u-2", **fields}
    return json.dumps({k: v for k, v in body.items() if v is not None}, ensure_ascii=False).encode()


def of_type(kind: str) -> Headers:
    return [("ce_type", f"segstream.{kind}".encode())]


def structured(**fields: Any) -> bytes:
    event = {"specversion": "1.0", "id": "e", "source": "/shop", "type": "call", "data": {}}
    return json.dumps({**event, **fields}, ensure_ascii=False).encode()


CLOUD: Headers = [("content-type", b"application/cloudevents+json")]
HOSTILE: list[tuple[str, str, bytes | None, Headers]] = [
    ("json", "garbage", LONG.encode(), None),
    ("json", "no UTF-8", b'{"type":"' + b"\xff" * 9_000_000, None),
    ("json", "deep", b"[" * 9_000_000, None),
    ("json", "no object", json.dumps([LONG]).encode()[:9_000_000], None),
    ("schema", "type", call(type=LONG), None),
    ("schema", "types", call(type={LONG: 1}), None),
    ("schema", "event", call(event=LONG), None),
    ("schema", "message id", call(messageId=LONG), None),
    ("schema", "properties", call(properties=LONG), None),
    ("schema", "keys", call(context=[{LONG: LONG[:1]}]), None),
    ("customer", "user", call(userId=LONG), None),
    ("customer", "anonymous", call(userId="a:" + LONG), None),
    ("customer", "number", b'{"type":"page","userId":' + b"9" * 9_000_000 + b"}", None),
    ("timestamp", "timestamp", call(timestamp=LONG), None),
    ("value", "total", call(properties={"total": LONG}), None),
    ("value", "digits", b'{"type":"track","event":"Order Completed","userId":"u-2",'
     b'"properties":{"total":' + b"9" * 9_000_000 + b"}}", None),
    ("currency", "currency", call(properties={"total": 1, "currency": LONG}), None),
    ("schema", "header", call(), [("ce_type", b"call"), ("ce_id", b"\xff" * 9_000_000)]),
    ("schema", "data", structured(data=LONG), CLOUD),
    ("schema", "source", structured(source=[LONG]), CLOUD),
    ("timestamp", "time", structured(time=LONG, data=json.loads(call())), CLOUD),
    ("control", "kind", structured(type=f"segstream.{LONG}"), CLOUD),
    ("control", "kind without data", None, of_type(LONG)),
    ("control", "kind with garbage", b"\x00", of_type(LONG)),
    ("control", "clock", json.dumps({"time": LONG[:700_000]}).encode(), of_type("clock")),
    ("control", "version", b'{"version":' + b"9" * 9_000_000 + b"}", of_type("model")),
    ("model", "digits", b'{"version":%s,"digest":"%s"}' % (b"9" * 18, b"a" * 64),
     of_type("model")),
    ("size", "value", b"x" * (11 << 20), None),
    ("size", "headers", b"x", [("x" * (11 << 20), LONG.encode())]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "value", "headers"),
    [pytest.param(*(r, v, h), id=f"{r}: {name}") for r, name, v, h in HOSTILE],
)
def test_messages_stay_short(reason: str, value: bytes | None, headers: Headers) -> None:
    output = letter(value, headers)
    errors = dict(output.headers[len(headers or []) if reason != "size" else 0 :])
    assert errors["segstream.errors.reason"] == reason.encode()
    text = errors["segstream.errors.message"]
    assert text is not None
    assert 10 < len(text) <= MOST_TEXT
    assert text.decode().isprintable()


def test_a_call_that_was_forwarded_too_often_says_whose_it_is_shortly() -> None:
    value = call(userId="\N{LINEAR B SYLLABLE B008 A}" * 256, properties={"x": LONG[:1_000_000]})
    letters = [
        output
        for number in (0, 1)
        for run in [Run(CONFIG, {}, Partition(number, 2, "murmur2", "customer-events"))]
        if run.batch(columns([Record(7, NOW, [("segstream.hops", b"3")], value)]))
        for output in run.outputs
        if output.topic == "dead_letters"
    ]
    (output,) = letters  # on one of the two partitions it is at home
    errors = dict(output.headers)
    assert errors["segstream.errors.reason"] == b"partition"
    assert len(errors["segstream.errors.message"] or b"") <= MOST_TEXT


def test_headers_that_cannot_be_read_are_left_out() -> None:
    """A name that is no UTF-8: the client cannot say what else there was."""
    output = letter(call(properties={"total": 1}), UNREADABLE)
    errors = dict(output.headers)
    assert output.headers[0][0] == "segstream.errors.reason"
    assert errors["segstream.errors.reason"] == b"schema"
    assert errors["segstream.errors.message"] == (
        b"headers: names in UTF-8 expected; the headers are left out here"
    )


def test_a_record_stays_as_it_came() -> None:
    """Key, value and headers byte for byte, also those that look like ours; errors stand last."""
    headers: Headers = [
        ("segstream.errors.reason", b"forged"),
        ("trace", b"\xff\x00"),
        ("trace", None),
        ("", b""),
        ("segstream.redriven", b"0-1"),
    ]
    run = Run(CONFIG, {}, Partition(0, 2, "murmur2", "customer-events"))
    run.batch(columns([Record(7, NOW, headers, b"\x00\xff{", b"\xfekey")]))
    (output,) = run.outputs
    assert (output.key, output.value) == (b"\xfekey", b"\x00\xff{")
    assert output.headers[: len(headers)] == headers
    added = dict(output.headers[len(headers) :])
    assert added.pop("segstream.errors.message")
    assert added == {
        "segstream.errors.reason": b"json",
        "segstream.errors.topic": b"customer-events",
        "segstream.errors.partition": b"0",
        "segstream.errors.offset": b"7",
        "segstream.errors.at": b"2033-05-18T03:33:20.000Z",
    }
