"""The records that segstream writes, as pydantic models.

They are the published contract: `schemas/*.json` is generated from them, and readers
(the trainer, the command line, downstream consumers) validate with them.
The worker writes the same shapes as msgspec's Structs (`output.py`), because it writes many.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Cause = Literal["first", "behaviour", "time", "model", "forgotten"]
Rule = Literal["clear", "held", "retired"]
Instant = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
        description="UTC, ISO 8601 with milliseconds",
    ),
]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$", description="BLAKE2b-64 of the customer")]

PersonsName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=60,
        pattern=r"^[^\s\x00-\x1f\x7f-\x9f]([^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f])?$",
        description="no line breaks, no blanks around it",
    ),
]

LARGEST = 2**32 - 1
"""Of what a State keeps in four bytes: versions and ids of segments."""


class Record(BaseModel):
    """Base of all records: immutable; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class SegmentRef(Record):
    segment: int = Field(ge=1, description="stable id, never reused")
    name: str


class EventRef(Record):
    id: str = Field(description="messageId of the event that caused the change")
    name: str = Field(description="name of the track event, or the type of the call")


class Distance(Record):
    """Distance of the customer's vector to the centres left and entered, in model space."""

    from_: float | None = Field(alias="from", ge=0)
    to: float = Field(ge=0)


class Reason(Record):
    feature: str
    value: float | None = Field(description="raw value in the feature's own unit; null = missing")
    share: float = Field(description="share of the difference of squared distances")


class Change(Record):
    """A customer left one segment and entered another (topic `segment-changes`)."""

    customer: str
    sequence: int = Field(ge=1, description="per customer, without gaps; from 1 again after null")
    from_: SegmentRef | None = Field(alias="from", description="null: entered")
    to: SegmentRef | None = Field(description="null: left")
    cause: Cause
    rule: Rule | None
    at: Instant
    event: EventRef | None = Field(description="null: caused by the passing of time")
    model: int = Field(ge=1, description="version of the model that decided")
    distance: Distance | None
    reasons: list[Reason] | None


class Membership(Record):
    """Where a customer is now (topic `customer-segments`, compacted; a null value = gone)."""

    customer: str
    segment: int = Field(ge=1)
    name: str
    since: Instant
    at: Instant
    model: int = Field(ge=1)
    sequence: int = Field(ge=1)


class Sample(Record):
    """Raw vector of a panel customer (topic `feature-samples`, compacted; key = customer hash)."""

    partition: int = Field(ge=0)
    level: int = Field(ge=0, le=64, description="panel level of the partition when sampled")
    at: Instant
    features: str = Field(description="id of the feature list")
    values: list[float | None]


class DayMarker(Record):
    """A partition's clock has passed this midnight (topic `feature-samples`, key `day-<p>`)."""

    partition: int = Field(ge=0)
    partitions: int = Field(ge=1, le=100_000)  # a forged number must not become work
    day: Instant


class ModelFeature(Record):
    """One coordinate of the model: raw value → fill → transform → clip → standardise → weight."""

    name: str
    expression: str
    transform: Literal["none", "log1p"]
    clip: tuple[float, float] = Field(description="bounds after the transform")
    fill: float = Field(description="raw value that stands for a missing one")
    mean: float
    scale: float = Field(gt=0)
    weight: float = Field(gt=0)
    average: float | None = Field(
        default=None, description="mean raw value of the panel; null: all are missing"
    )


class Rules(Record):
    """A sentence that tells who is in the segment, and how far it may be believed.

    All shares are of panel customers that were held out when the rules were learned.
    """

    text: str
    fidelity: float = Field(
        description="share whom the rules of all segments put where the model does"
    )
    recall: float = Field(description="share of the segment's members whom these rules put there")
    covers: float | None = Field(default=None, description="share of the members it is true of")
    precision: float | None = Field(
        default=None, description="share of members among those it is true of; null: of nobody"
    )
    approximate: bool = Field(
        default=False,
        description="fidelity below 0.90, or a recall below 0.75 in this version, or this text "
        "covers less than 0.75",
    )


class Fate(Record):
    """What became of the segment against the parent version; see core/lifecycle.py."""

    kind: Literal["born", "survived", "shifted", "split", "merged"]
    parents: list[tuple[int, float]] = Field(
        description="(older segment, share of this segment's members that come from it)"
    )
    overlaps: list[tuple[int, float]] = Field(
        default=[], description="(older segment, share of that segment's members that are here now)"
    )


class ModelSegment(Record):
    segment: int = Field(ge=1, le=LARGEST)
    name: str
    named_by: Literal["profile", "person"]
    centre: list[float] = Field(description="in model space, feature order")
    size: int = Field(ge=0, description="panel customers")
    share: float = Field(ge=0, le=1)
    profile: dict[str, float | None] = Field(description="median raw value per feature")
    means: dict[str, float | None] = Field(
        default={}, description="mean raw value per feature; compare with the feature's average"
    )
    effects: dict[str, float] = Field(
        default={}, description="distance from the panel's mean per feature, in standard deviations"
    )
    rules: Rules | None = None
    fidelity: float | None = None
    fate: Fate | None = None


class Retired(Record):
    segment: int = Field(ge=1, le=LARGEST)
    name: str
    heir: int | None = None
    overlaps: list[tuple[int, float]] = Field(
        default=[],
        description="(segment, share of its members there when it was retired)",
    )


class Choice(Record):
    """How many segments there are, if that is chosen; see core/choice.py."""

    k: int = Field(ge=1, description="chosen")
    scores: list[tuple[int, float]] = Field(description="(k, smoothed score)")
    changes: list[Instant] = Field(description="when k has changed, a year back")


class Drift(Record):
    """What the drift monitors know at the end of a day; see core/drift.py."""

    reference: int = Field(ge=1, description="version whose centres are looked at from")
    days: int = Field(default=0, ge=0, description="since the test on distances began")
    mean: float = Field(default=0.0, description="of the daily distances since then")
    rise: float = Field(default=0.0, description="Page-Hinkley sum against a rise")
    lowest: float = Field(default=0.0, description="lowest of these sums")
    fall: float = Field(default=0.0, description="Page-Hinkley sum against a fall")
    highest: float = Field(default=0.0, description="highest of these sums")
    distance: float | None = Field(default=None, description="of the panel, mean, the last day")
    psi: float | None = Field(default=None, description="of the segments' shares, the last day")
    shifted: bool = Field(default=False, description="shares have moved and are not back yet")
    distance_alarm: Instant | None = Field(default=None, description="the last one of distances")
    share_alarm: Instant | None = Field(default=None, description="the last one of shares")
    early: Instant | None = Field(
        default=None, description="the last version that an alarm has brought early"
    )


class Panel(Record):
    customers: int = Field(ge=0)
    level: int = Field(ge=0)
    at: Instant = Field(description="samples up to this midnight were learned")


class ModelRecord(Record):
    """An immutable version of the model (topic `segment-models`, key = version)."""

    model: int = Field(ge=1, le=LARGEST, description="version")
    parent: int | None
    kind: Literal["centres"]
    at: Instant = Field(description="event time of publication")
    features: list[ModelFeature] = Field(min_length=1)
    features_id: str
    segments: list[ModelSegment] = Field(min_length=1)
    retired: list[Retired]
    panel: Panel
    quality: dict[str, float | None]
    choice: Choice | None = None
    drift: Drift | None = None
    digest: str = Field(default="", description="SHA-256 of the record without this field")

    def sealed(self) -> "ModelRecord":
        """The same record with its digest."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(by_alias=True))})


class Rename(Record):
    """What people want a segment to be called (topic `segment-models`, key `rename-<segment>`)."""

    segment: int = Field(ge=1, le=LARGEST)
    name: PersonsName | None = Field(description="null: what its profile says")
    at: Instant = Field(description="wall clock of the command")


class ModelActivated(Record):
    """Data of the control event `segstream.model`."""

    version: int = Field(ge=1, le=2**63 - 1)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")


class ClockAdvanced(Record):
    """Data of the control event `segstream.clock`."""

    time: str = Field(description="RFC 3339 with an offset")


def digest_of(record: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no spaces) of a record without `digest`."""
    body = {key: value for key, value in record.items() if key != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
