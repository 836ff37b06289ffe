"""The data contracts that ship with the package: topics, rights and JSON Schemas.

In a wheel they lie in the package; in an editable install they lie where people look for them,
in `schemas/` at the top of the repository.
"""

import json
import tomllib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
"""As `kafka-acls.sh` calls them."""


class Topic(BaseModel):
    """One topic of `schemas/topics.toml`, where the fields are explained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    schemas: list[str]
    key: str
    nulls: bool
    partitions: int | str = Field(description="number, topic that has the same, or 0: chosen")
    writers: list[str]
    readers: list[str]
    config: dict[str, str | int]

    def partitions_for(self, chosen: int) -> int:
        """Number of partitions, if `chosen` is that of customer-events."""
        return self.partitions if isinstance(self.partitions, int) and self.partitions else chosen

    def kafka_config(self) -> dict[str, str]:
        """Topic settings as Kafka's admin client takes them."""
        return {name: str(value) for name, value in self.config.items()}


class Rights(BaseModel):
    """One process of `schemas/rights.toml`, where the fields are explained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    topics: dict[str, list[Operation]] = {}
    groups: dict[str, list[Operation]] = {}
    transactional_ids: dict[str, list[Operation]] = Field(default={}, alias="transactional-ids")
    redis: list[str]


def rights() -> dict[str, Rights]:
    """What each process must be allowed, in the order of the file."""
    table = tomllib.loads(_read("rights.toml"))
    del table["version"]
    return TypeAdapter(dict[str, Rights]).validate_python(table)


def topics() -> dict[str, Topic]:
    """All topics by default name, in the order of the file."""
    contract = tomllib.loads(_read("topics.toml"))
    return TypeAdapter(dict[str, Topic]).validate_python(contract["topics"])


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of a record, such as `change`."""
    return cast("dict[str, Any]", json.loads(_read(f"{name}.json")))


def _read(name: str) -> str:
    packaged: Traversable = files("segstream") / "schemas"
    place = packaged if packaged.is_dir() else Path(__file__).parents[2] / "schemas"
    return (place / name).read_text(encoding="utf-8")
