"""Write schemas/*.json from the pydantic models: `python scripts/make_schemas.py`."""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from segstream.core import record, spec

DIRECTORY = Path(__file__).parents[1] / "schemas"
CONTRACTS: dict[str, TypeAdapter[Any]] = {
    "call": TypeAdapter(spec.SegmentCall),
    "cloud-event": TypeAdapter(spec.CloudEvent),
    "model-activated": TypeAdapter(record.ModelActivated),
    "clock-advanced": TypeAdapter(record.ClockAdvanced),
    "change": TypeAdapter(record.Change),
    "membership": TypeAdapter(record.Membership),
    "sample": TypeAdapter(record.Sample),
    "day-marker": TypeAdapter(record.DayMarker),
    "model": TypeAdapter(record.ModelRecord),
    "rename": TypeAdapter(record.Rename),
}
"""By the name of the file. A published schema says what the models accept, no more and no less,
except for what JSON Schema cannot say: bounds of times, and the digest of a model."""
VERSION = 1
CALL = "A Segment Spec call: what `customer-events` takes, as it is or inside CloudEvents."


class Untitled(GenerateJsonSchema):
    """Fields have their names; a title that repeats the name says nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def schemas() -> dict[str, str]:
    """The text of each schema file, by file name."""
    return {
        f"{name}.json": json.dumps(_schema(name, contract), indent=2, ensure_ascii=False) + "\n"
        for name, contract in CONTRACTS.items()
    }


def _schema(name: str, contract: TypeAdapter[Any]) -> dict[str, Any]:
    body = contract.json_schema(by_alias=True, schema_generator=Untitled)
    if name == "call":
        body["description"] = CALL
        # Tags are an OpenAPI word; JSON Schema needs none, each call has its own `type`.
        body.pop("discriminator", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:segstream:{name}:v{VERSION}",
        "title": name,
    } | {key: value for key, value in body.items() if key != "title"}


def main() -> None:
    for name, text in schemas().items():
        (DIRECTORY / name).write_text(text)
        print(f"schemas/{name}")


if __name__ == "__main__":
    main()
