"""What an installation is reckoned from, and what comes out: the words of `segstream size`."""

from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

MOST = 10_000
"""Partitions that `topics.partitions` takes."""
NODES = 1_000
"""Of a Redis Cluster, as its makers recommend at most."""

Traffic = Literal["flat", "hot"]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Each(Part):
    """A constant for both kinds of traffic."""

    flat: float = Field(gt=0)
    hot: float = Field(gt=0)


class Measured(Part):
    """The constants, as in segstream/measured.toml, which says what they mean."""

    head_bytes: int
    ring_share: float
    events_per_core: Each
    states_per_event: Each
    redis_us_per_event: Each
    tick_us: float
    redis_tick_us: float
    entry_bytes: int
    member_bytes: int
    change_bytes: int
    membership_bytes: int
    changes_per_customer_month: float
    segmenter_gb: float
    trainer_gb: float


class Prices(Part):
    """Per month, but for the first; of any one currency."""

    vcpu_hour: float = Field(ge=0)
    memory_gb: float = Field(ge=0)
    disk_gb: float = Field(ge=0)
    traffic_gb: float = Field(ge=0)  # moved from one machine to another


class Demand(Part):
    """What is wanted. Rates are those of the busiest time that must be kept up with."""

    customers: int = Field(ge=1)
    events_per_second: float = Field(gt=0)
    traffic: Traffic = "flat"
    event_bytes: int = Field(default=300, ge=1)  # as they travel: key, headers, compression
    id_bytes: int = Field(default=36, ge=1)
    replication: int = Field(default=3, ge=1)
    retention_days: float = Field(default=30, gt=0)
    readers: int = Field(default=1, ge=0)
    utilisation: float = Field(default=0.6, gt=0, le=1)
    shard_gb: float = Field(default=32, gt=0)
    redis_replicas: int = Field(default=1, ge=0)
    redis_vcpus: int = Field(default=2, ge=1)  # of a node: one for its thread, one for the rest
    kafka_vcpus: int = Field(default=0, ge=0)  # of all brokers together
    trainers: int = Field(default=2, ge=1)
    partitions: int | None = Field(default=None, ge=1, le=MOST)  # None: as many as are needed
    shards: int | None = Field(default=None, ge=1, le=NODES)
    even_slots: bool = False  # ranges by partitions; else equal ones


class Configured(Part):
    """What the settings in force say."""

    namespace: str
    state_bytes: int
    tick_seconds: float


class Line(NamedTuple):
    """`how`: the formula, with its numbers."""

    part: str
    name: str
    value: float
    unit: str
    how: str


class Shard(NamedTuple):
    """How many partitions, with which range of slots."""

    partitions: int
    slots: tuple[int, int]


class Size(NamedTuple):
    """The answer. `notes`: limits that are met, for people."""

    lines: list[Line]
    shards: list[Shard]
    notes: list[str]

    def value(self, part: str, name: str) -> float:
        return next(line.value for line in self.lines if (line.part, line.name) == (part, name))


class TooBig(ValueError):
    """No installation of this kind can do it. The message says why, for people."""
