"""What comes in: the authority that reads one record of `customer-events`.

A record is a Segment Spec call as it is, the same call inside CloudEvents (binary or
structured), or a control event of segstream itself. `read` accepts or refuses it as
`docs/semantics.md` section 2 says, and knows nothing of the feature configuration: the
values of an accepted call are left in its body for whoever knows which ones are wanted.

A faster decoder may accept a part of what `read` accepts, with equal results, and must leave
the rest to `read`, which alone says why a record is refused. The models and the reading of times
are in `spec.py`, what two decoders of one text must share in `json_text.py`.

The first fault names the reason: json, then alias, then fields in the order type, userId,
anonymousId, messageId, timestamp, event, properties or traits, context, then who it is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from segstream.core import json_text
from segstream.core.forward import UNREADABLE, appended_of
from segstream.core.record import ClockAdvanced, ModelActivated
from segstream.core.spec import (
    MAX_ID,
    AnyCall,
    CloudEvent,
    Fault,
    Invalid,
    SegmentCall,
    parse_time,
    shown,
)

__all__ = [
    "Call",
    "ClockControl",
    "Envelope",
    "Fault",
    "Invalid",
    "ModelControl",
    "Reading",
    "envelope_of",
    "parse_time",
    "read",
    "shown",
]

Headers = Sequence[tuple[str, bytes | None]] | None
T = TypeVar("T")
_CALL: TypeAdapter[AnyCall] = TypeAdapter(SegmentCall)
_CLOUD_EVENT = TypeAdapter(CloudEvent)
_FIELD_FAULTS: dict[str, Fault] = {
    "userId": "customer",
    "anonymousId": "customer",
}
_AFTER_TIME = {"event", "properties", "traits", "context"}


class Call(NamedTuple):
    """One accepted call. `body` is the parsed JSON object, for looking up values."""

    customer: str
    """userId, else `a:` + anonymousId."""
    raw_id: str
    """The id without `a:`; it decides the partition."""
    message_id: str | None
    """None: partition and offset stand in."""
    time: int | None
    """Milliseconds since 1970 UTC. None: the append time stands in."""
    type: str
    name: str
    """Name of the track event, else the type."""
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ModelControl:
    """`segstream.model`: a version becomes active from this record on."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class ClockControl:
    """`segstream.clock`: the clock moves to `time` (ms)."""

    time: int


Reading = Call | ModelControl | ClockControl


class Envelope(NamedTuple):
    """How a record is wrapped; the attributes are those of binary CloudEvents."""

    mode: Literal["plain", "binary", "structured"]
    type: str = ""
    id: str | None = None
    time: str | None = None

    @property
    def is_control(self) -> bool:
        return self.type.startswith("segstream.")


PLAIN = Envelope("plain")


def read(value: bytes | None, headers: Headers = None) -> Reading:
    """The call or control event in a record, or `Invalid`; nothing else is ever raised."""
    envelope = envelope_of(headers)
    if envelope.is_control:
        return _control(envelope.type, value)
    body = _object(value)
    if envelope.mode == "structured":
        event = _validated(_CLOUD_EVENT, body)
        envelope = Envelope("structured", event.type, event.id, event.time)
        if envelope.is_control:
            return _control(event.type, event.data)
        body = event.data
        if not isinstance(body, dict):
            raise Invalid(
                "schema",
                f"data: a Segment call (an object) expected, got {shown(body)}",
            )
    return _call(body, envelope, headers)


def envelope_of(headers: Headers) -> Envelope:
    """The wrapping that the headers tell. Of a repeated header the last counts; null is absent."""
    if not headers:
        return PLAIN
    if headers == UNREADABLE:
        raise Invalid("schema", "headers: names in UTF-8 expected; the headers are left out here")
    found = {name: value for name, value in headers if value is not None}
    if "ce_type" in found:
        attributes = [_header(found, name) for name in ("ce_type", "ce_id", "ce_time")]
        return Envelope("binary", attributes[0] or "", attributes[1], attributes[2])
    if found.get("content-type", b"").lower().startswith(b"application/cloudevents"):
        return Envelope("structured")
    return PLAIN


def _call(body: dict[str, Any], envelope: Envelope, headers: Headers) -> Call:
    """The call in a JSON object; what it lacks is taken from the CloudEvents attributes."""
    if body.get("type") == "alias":
        raise Invalid("alias", "type: 'alias' is refused, customers are not merged")
    if body.get("messageId") is None:
        body = {**body, "messageId": envelope.id}
    if body.get("timestamp") is None:
        body = {**body, "timestamp": envelope.time}
    call = _validated(_CALL, body)
    time = _time(body)
    raw_id = _who(call.user_id, call.anonymous_id)
    return Call(
        customer=raw_id if call.user_id else f"a:{raw_id}",
        raw_id=raw_id,
        message_id=call.message_id,
        time=appended_of(headers) if time is None else time,
        type=call.type,
        name=call.name,
        body=body,
    )


def _time(body: dict[str, Any]) -> int | None:
    text = body.get("timestamp")
    return None if text is None else parse_time(text)


def _who(user: str | None, anonymous: str | None) -> str:
    """The id that counts, of a userId and an anonymousId."""
    found = user or anonymous
    if not found:
        raise Invalid("customer", "userId or anonymousId expected, both are missing or empty")
    if len(found) > MAX_ID or "\0" in found:
        field = "userId" if user else "anonymousId"
        wanted = f"1 to {MAX_ID} characters without NUL expected"
        raise Invalid("customer", f"{field}: {wanted}, got {shown(found)}")
    if user and user.startswith("a:"):
        problem = "must not begin with 'a:', which marks anonymous customers"
        raise Invalid("customer", f"userId: {problem}, got {shown(user)}")
    return found


def _control(kind: str, data: object) -> ModelControl | ClockControl:
    """The control event of a type; `data` is a parsed value, or the bytes of one."""
    if kind not in ("segstream.model", "segstream.clock"):
        raise Invalid("control", f"type: no such control event: {shown(kind)}")
    try:
        body = _object(data) if data is None or isinstance(data, bytes) else data
        if kind == "segstream.model":
            model = ModelActivated.model_validate(body, strict=True)
            return ModelControl(model.version, model.digest)
        clock = ClockAdvanced.model_validate(body, strict=True)
        return ClockControl(parse_time(clock.time))
    except ValidationError as error:
        problem = f"{kind}: {_explained(error)[1].message}"
    except Invalid as error:
        problem = f"{kind}: {error.message}"
    raise Invalid("control", problem)


def _validated(contract: TypeAdapter[T], body: dict[str, Any]) -> T:
    try:
        return contract.validate_python(body)
    except ValidationError as error:
        field, fault = _explained(error)
    if field in _AFTER_TIME:
        _time(body)  # its fault comes first, if it has one
    # Not raised where the ValidationError is at hand, which would be kept as its context.
    try:
        raise fault
    finally:
        del fault  # nor held by this frame, which it holds


def _explained(error: ValidationError) -> tuple[str, Invalid]:
    """The first fault that pydantic found: the field, and what is wrong in words."""
    first = error.errors(include_url=False)[0]
    if first["type"].startswith("union_tag"):
        wanted = "one of track, identify, page, screen, group expected"
        given = shown(first["input"].get("type"))
        return "type", Invalid("schema", f"type: {wanted}, got {given}")
    field = str(first["loc"][-1])[:100] if first["loc"] else "value"
    if first["type"] == "missing":
        return field, Invalid("schema", f"{field}: missing")
    reason = _FIELD_FAULTS.get(field, "schema")
    return field, Invalid(reason, f"{field}: {first['msg']}, got {shown(first['input'])}")


def _object(value: bytes | None) -> dict[str, Any]:
    try:
        return json_text.parse_object(value)
    except ValueError as error:
        where = "" if value is None else f", in {shown(value[:100])}"
        raise Invalid("json", f"value: {error}{where}") from error


def _header(found: Mapping[str, bytes], name: str) -> str | None:
    value = found.get(name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise Invalid("schema", f"header {name}: UTF-8 expected, got {shown(value)}") from None
