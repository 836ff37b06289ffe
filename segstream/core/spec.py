"""What may come in, as pydantic models: Segment Spec calls and CloudEvents.

The models are the published contract (`schemas/call.json`, `schemas/cloud-event.json`) and, with
`call.read`, the authority: unknown fields are ignored, types are strict, and an `Invalid` says
in words what is wrong. The time, and whom a call is about: the published schema has the rules,
`call.read` judges, because pydantic calls functions slowly. An alias call is no part of it: it is
always refused.
"""

import reprlib
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

MAX_ID = 256
"""Characters (code points) of an id or an event name."""
EARLIEST_MS = 0
"""1970-01-01T00:00:00Z."""
END_MS = 7_289_654_400_000
"""2201-01-01T00:00:00Z: instants are below it, the year 2200 is the last."""

Fault = Literal[
    "size",
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
]
_instant = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)]).decode
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 100


class Invalid(ValueError):
    """A record that becomes a dead letter: a reason for machines, a message for people."""

    def __init__(self, reason: Fault, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def parse_time(text: object) -> int:
    """Milliseconds since 1970 of an RFC 3339 text with an offset; see `ms_of`. Raises Invalid."""
    ms = time_of(text)
    if ms is None:
        wanted = "RFC 3339 text with an offset or Z expected"
        raise Invalid("timestamp", f"timestamp: {wanted}, got {shown(text)}")
    if not EARLIEST_MS <= ms < END_MS:
        raise Invalid("timestamp", f"timestamp: years 1970 to 2200 expected, got {shown(text)}")
    return ms


def time_of(text: object) -> int | None:
    """As `parse_time`, of any year; None of what is no time."""
    try:
        # As JSON, because a decoder is made once: `convert` looks for one each time.
        return ms_of(_instant(msgspec.json.encode(text))) if isinstance(text, str) else None
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None


def ms_of(instant: datetime) -> int:
    """Milliseconds since 1970 of an aware datetime, cut off (not `timestamp()`: a float).

    msgspec rounds a longer fraction half up to microseconds before, and this is part of the rule:
    `.0009995` is a millisecond, `.000999` is none.
    """
    since = instant - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000


def shown(value: object) -> str:
    """A value for people: its repr in at most 100 characters, all of them printable."""
    brief = isinstance(value, str | bytes) and len(value) <= 100  # reprlib takes its time
    text = repr(value) if brief else _REPR.repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


_TIME: JsonDict = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)$",
    "description": "When it happened; missing: the append time",
}
_ID: JsonDict = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID,
    "pattern": r"^[^\u0000]*$",
}
_WHO: JsonDict = {
    "if": {
        "required": ["userId"],
        "properties": {"userId": {"type": "string", "minLength": 1}},
    },
    "then": {"properties": {"userId": {**_ID, "not": {"pattern": "^a:"}}}},
    "else": {"required": ["anonymousId"], "properties": {"anonymousId": _ID}},
}
_Time = Annotated[Any, WithJsonSchema({"anyOf": [_TIME, {"type": "null"}]})]
_Fields = Annotated[dict[Any, Any] | None, Field(default=None)]


class _Common(BaseModel):
    """What all calls share. Unknown fields are ignored; types are strict."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        json_schema_extra=_WHO,
    )

    type: str
    user_id: str | None = Field(default=None, description="Who; must not begin with `a:`")
    anonymous_id: str | None = Field(default=None, description="Who, while there is no userId")
    message_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ID,
        description="Recognises duplicates",
    )
    timestamp: _Time = None

    @property
    def name(self) -> str:
        return self.type


class Track(_Common):
    """Something a customer did."""

    type: Literal["track"]
    event: str = Field(min_length=1, max_length=MAX_ID, description="Name of the event")
    properties: _Fields
    context: _Fields

    @property
    def name(self) -> str:
        return self.event


class Identify(_Common):
    """Who a customer is."""

    type: Literal["identify"]
    traits: _Fields
    context: _Fields


class Page(_Common):
    """A page that a customer saw."""

    type: Literal["page"]
    properties: _Fields
    context: _Fields


class Screen(_Common):
    """A screen of an app that a customer saw."""

    type: Literal["screen"]
    properties: _Fields
    context: _Fields


class Group(_Common):
    """A group (company, team) that a customer belongs to."""

    type: Literal["group"]
    traits: _Fields
    context: _Fields


AnyCall = Track | Identify | Page | Screen | Group
SegmentCall = Annotated[AnyCall, Field(discriminator="type")]


class CloudEvent(BaseModel):
    """The structured envelope: a call, or the data of a control event, with its attributes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    specversion: str = Field(min_length=1)
    id: str = Field(min_length=1, description="Stands in for a missing messageId")
    source: str = Field(min_length=1)
    type: str = Field(min_length=1, description="`segstream.*` makes it a control event")
    time: str | None = Field(default=None, description="Stands in for a missing timestamp")
    data: Any = Field(description="The Segment call, or the data of the control event")
