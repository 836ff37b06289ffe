"""A preset is only configuration: each one gives, event by event, what the oracle says."""

import json
import tomllib
from random import Random
from typing import Any

import pytest

from consumers.settings import presets
from segstream.core.check import define
from segstream.core.config import Definition
from segstream.core.output import ms_text
from segstream.core.record import ModelFeature, ModelRecord, ModelSegment, Panel
from segstream.core.step import Partition
from tests.comparison import problems
from tests.harness import PRESETS, Run
from tests.oracle import Oracle, Record

START, DAY, NOW = 1_767_225_600_000, 86_400_000, 2_000_000_000_000


def calls_of(definition: Definition) -> list[tuple[str, str]]:
    """All calls that a definition names, as (type, event)."""
    measures = definition.measures.values()
    tracks = {("track", event) for m in measures for event in m.events}
    others = {(call, "") for m in measures for call in m.calls}
    return sorted(tracks | others | {("identify", "")})


def value_for(path: str, definition: Definition, rng: Random) -> Any:
    """A value that whoever reads this field takes, or does not."""
    for kind, name, field, is_number in definition.readers():
        if field == path and is_number:
            return rng.choice([None, round(rng.uniform(0, 5_000), 2), rng.randrange(90)])
        if field == path and kind != "money":
            reader = definition.traits.get(name) or definition.measures[name]
            return rng.choice([*reader.values, "something else"])
    raise AssertionError(path)


def event(number: int, definition: Definition, rng: Random) -> Record:
    kind, name = rng.choice(calls_of(definition))
    body: dict[str, Any] = {"type": kind, "userId": f"u{rng.randrange(25)}"}
    body["timestamp"] = ms_text(START + number * DAY // 8 - rng.choice([0, 0, 0, 9 * DAY]))
    if kind == "track":
        body["event"] = name
    for _, _, path, _ in definition.readers():
        section, key = path.split(".")
        if (section == "traits") == (kind == "identify"):
            body.setdefault(section, {})[key] = value_for(path, definition, rng)
    return Record(number, NOW, None, json.dumps(body).encode())


def model_of(definition: Definition, rng: Random) -> ModelRecord:
    columns = definition.columns().items()
    features = [
        ModelFeature(
            name=name,
            expression=column.expression,
            transform=column.transform,
            clip=(-50.0, 50.0),
            fill=1.0,
            mean=rng.random(),
            scale=0.5 + rng.random(),
            weight=column.weight,
        )
        for name, column in columns
    ]
    segments = [
        ModelSegment(
            segment=number,
            name=f"segment {number}",
            named_by="profile",
            centre=[rng.gauss(0, 1) for _ in features],
            size=0,
            share=0.0,
            profile={},
        )
        for number in range(1, 5)
    ]
    return ModelRecord(
        model=1,
        parent=None,
        kind="centres",
        at=ms_text(START),
        features=features,
        features_id=definition.features_id(),
        segments=segments,
        retired=[],
        panel=Panel(customers=0, level=0, at=ms_text(START)),
        quality={},
    ).sealed()


def test_there_are_two() -> None:
    assert presets() == ["media", "retail"]


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize("seed", range(3))
def test_core_and_oracle_agree(name: str, seed: int) -> None:
    rng = Random(f"{name} {seed}")
    config = tomllib.loads((PRESETS / f"{name}.toml").read_text())
    definition = define(config)
    model = model_of(definition, rng)
    records = [event(number, definition, rng) for number in range(600)]
    data = json.dumps({"version": 1, "digest": model.digest}).encode()
    records[100] = Record(100, NOW, [("ce_type", b"segstream.model")], data)
    body = {1: model.model_dump(mode="json", by_alias=True)}
    run = Run(config, body, Partition(0, 1, "murmur2", "customer-events"))
    run.feed(records, lambda: rng.randint(1, 80))
    oracle = Oracle(
        config, partition=0, partitions=1, models=body, features_id=run.function.features_id
    )
    for record in records:
        oracle.feed(*record)
    assert not problems(run, oracle), f"seed {seed}"
    changes = run.checkpoint.changes
    assert changes["first"]  # it was no empty agreement
    assert changes["behaviour"] + changes["time"]
