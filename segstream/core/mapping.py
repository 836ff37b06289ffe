"""How the rows of a table become Segment Spec calls: a small declaration (TOML).

A mapping says who a row is about, when it happened, and which calls it stands for. A call is made
`per` row, or `per` group: adjacent rows with the same `group_by` cell and the same ids give one
call after the last of them, with its time and, where `sum` asks for it, totals over its rows.

Dirt is passed on, never dropped: a cell that is not what the mapping says (a number, a time) is
sent as the text it is, and a row without ids is sent without ids; the segmenter refuses what is
wrong and says why. Empty and null cells are absent. `segstream.core.table` carries a mapping out.
"""

import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

_SAMPLE = datetime(2001, 12, 24, 13, 45, tzinfo=UTC)


class MappingError(ValueError):
    """A mapping that cannot be used. The message lists every mistake with its key."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Value(_Part):
    """What a property or trait is made from. Bare text stands for `{column = …}`."""

    column: str | None = None
    type: Literal["text", "integer", "number", "boolean"] = "text"
    value: str | bool | int | float | None = Field(None, description="the same for every call")
    sum: list[str] | None = Field(
        None,
        min_length=1,
        description="product of these columns, summed over the group's rows",
    )
    abs: bool = Field(False, description="without its sign; of a sum")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(part is not None for part in (self.column, self.value, self.sum)) != 1:
            raise ValueError("give exactly one of column, value and sum")
        if self.type != "text" and self.column is None:
            raise ValueError("type belongs to a column")
        if self.abs and self.sum is None:
            raise ValueError("abs belongs to a sum")
        return self


class When(_Part):
    """Which rows. Exactly one of begins, equals, present."""

    column: str
    begins: str | None = Field(None, min_length=1)
    equals: str | None = None
    present: bool | None = None
    negate: bool = Field(False, alias="not")

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if sum(part is not None for part in (self.begins, self.equals, self.present)) != 1:
            raise ValueError("give exactly one of begins, equals and present")
        return self


class Timestamp(_Part):
    """`iso` (RFC 3339, the offset may be missing), `seconds` or `milliseconds` since 1970,
    or a strptime pattern; `zone` is that of times without an offset."""

    column: str
    format: str = "iso"
    zone: str = "UTC"

    @model_validator(mode="after")
    def _can_read_a_time(self) -> Self:
        try:
            zone_of(self.zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(
                f"zone {self.zone!r} is not known, use a name as Europe/London"
            ) from None
        if self.format in ("iso", "seconds", "milliseconds"):
            return self
        try:
            text = _SAMPLE.strftime(self.format)
            read = datetime.strptime(text, self.format)  # noqa: DTZ007 (only the date counts)
        except ValueError as error:
            raise ValueError(f"format {self.format!r} does not work: {error}") from None
        if read.date() != _SAMPLE.date():
            raise ValueError(f"format {self.format!r} does not hold year, month and day")
        return self


def _as_value(given: object) -> object:
    return {"column": given} if isinstance(given, str) else given


Fields = dict[str, Annotated[Value, BeforeValidator(_as_value)]]


class CallMapping(_Part):
    """One call per row or group that `when` allows (all conditions)."""

    per: Literal["row", "group"] = "row"
    type: Literal["track", "identify", "page", "screen", "group"] = "track"
    event: str | None = Field(None, min_length=1, description="name of a track call")
    event_column: str | None = None
    message_id: str | None = Field(
        None, description="column; without it the digest of the row's or group's cells"
    )
    when: list[When] = []
    properties: Fields = {}
    traits: Fields = {}

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        named = (self.event is not None) + (self.event_column is not None)
        if named != (self.type == "track"):
            raise ValueError("a track call, and no other, has one of event and event_column")
        if self.properties and self.type in ("identify", "group"):
            raise ValueError(f"{self.type} calls have traits, not properties")
        if self.traits and self.type not in ("identify", "group"):
            raise ValueError(f"{self.type} calls have properties, not traits")
        fields = self.properties | self.traits
        sums = [name for name, value in fields.items() if value.sum]
        if sums and self.per == "row":
            raise ValueError(f"a sum needs per = 'group': {', '.join(sums)}")
        return self


class Mapping(_Part):
    """The whole declaration (a TOML file)."""

    user_id: str | None = Field(None, description="column of userId")
    anonymous_id: str | None = Field(None, description="column of anonymousId")
    timestamp: Timestamp | None = None
    group_by: str | None = Field(None, description="column whose equal neighbours are a group")
    repeat: list[str] = Field(
        [],
        description="CSV: where the first of these is empty, all are those of the row above",
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="CSV")
    encoding: str = Field("utf-8-sig", description="CSV")
    calls: list[CallMapping] = Field(min_length=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.user_id is None and self.anonymous_id is None:
            raise ValueError("give user_id or anonymous_id")
        if self.group_by is None and any(call.per == "group" for call in self.calls):
            raise ValueError("per = 'group' needs group_by")
        try:
            "".encode(self.encoding)
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} is not known") from None
        return self

    def columns(self) -> Iterator[tuple[str, str]]:
        """(key, column) of every column that is named."""
        for key in ("user_id", "anonymous_id", "group_by"):
            if (column := getattr(self, key)) is not None:
                yield key, column
        if self.timestamp:
            yield "timestamp.column", self.timestamp.column
        yield from ((f"repeat.{i}", column) for i, column in enumerate(self.repeat))
        for n, call in enumerate(self.calls):
            yield from ((f"calls.{n}.{key}", column) for key, column in _columns_of(call))


def _columns_of(call: CallMapping) -> Iterator[tuple[str, str]]:
    for key in ("event_column", "message_id"):
        if (column := getattr(call, key)) is not None:
            yield key, column
    yield from ((f"when.{i}.column", when.column) for i, when in enumerate(call.when))
    for kind in ("properties", "traits"):
        for name, value in getattr(call, kind).items():
            if value.column is not None:
                yield f"{kind}.{name}", value.column
            yield from ((f"{kind}.{name}.sum", column) for column in value.sum or ())


def parse(text: str) -> Mapping:
    """A mapping from TOML. Raises MappingError with all mistakes."""
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"not TOML: {error}") from None
    except ValidationError as error:
        raise MappingError(
            "\n".join(
                f"{'.'.join(map(str, mistake['loc'])) or 'mapping'}: "
                f"{mistake['msg'].removeprefix('Value error, ')}"
                for mistake in error.errors(include_url=False)
            )
        ) from None


def zone_of(name: str) -> tzinfo:
    """UTC needs no time zone data on the machine; the others do."""
    return UTC if name == "UTC" else ZoneInfo(name)
