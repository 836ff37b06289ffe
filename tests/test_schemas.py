"""The data contracts: generated schemas, their examples, AsyncAPI and topics agree."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
import yaml
from hypothesis import given
from pydantic import ValidationError

from scripts.make_schemas import CONTRACTS, schemas
from segstream.core import output, record
from segstream.core.call import read
from segstream.core.spec import Fault, Invalid, parse_time
from segstream.shell import contract
from tests.test_call import calls

SCHEMAS = Path(__file__).parents[1] / "schemas"
ASYNCAPI_SCHEMA = Path(__file__).parent / "data" / "third_party" / "asyncapi-3.0.0.json.gz"
EXAMPLES = sorted(SCHEMAS.glob("examples/*/*/*.json"))
TOPICS = contract.topics()


def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
    return document


def by_schema(schema: dict[str, Any], value: object) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def by_model(name: str, text: str) -> bool:
    """What the code says: of a call, the authority, to which its models are but a part."""
    try:
        if name == "call":
            read(text.encode())
        else:
            CONTRACTS[name].validate_json(text, strict=True)
    except (ValidationError, Invalid):
        return False
    return True


# --- schemas and examples -------------------------------------------------------------------


def test_the_schemas_are_those_of_the_models() -> None:
    """After a change of a model: `python scripts/make_schemas.py`."""
    written = {path.name: path.read_text() for path in SCHEMAS.glob("*.json")}
    assert written == schemas()


@pytest.mark.parametrize("name", ["Change", "Membership", "EventRef", "Distance", "Reason"])
def test_what_is_written_at_speed_has_the_fields_of_its_model(name: str) -> None:
    written = msgspec.structs.fields(getattr(output, name))
    model = getattr(record, name).model_fields
    assert [field.encode_name for field in written] == [
        field.alias or name for name, field in model.items()
    ]


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_schema_is_valid_and_has_examples_of_both_kinds(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(contract.json_schema(name))
    for kind in ("valid", "invalid"):
        assert len(list((SCHEMAS / "examples" / name / kind).glob("*.json"))) >= 2


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: "/".join(p.parts[-3:]))
def test_schema_and_model_judge_an_example_alike(path: Path) -> None:
    _, name, verdict, _ = path.parts[-4:]
    text = path.read_text()
    expected = {"valid": True, "invalid": False}[verdict]
    assert by_schema(contract.json_schema(name), json.loads(text)) is expected
    assert by_model(name, text) is expected


def in_range(body: dict[str, Any]) -> bool:
    """Whether the time is one, apart from what JSON Schema can say of it."""
    try:
        return body.get("timestamp") is None or parse_time(body["timestamp"]) >= 0
    except Invalid:
        return False


@given(calls.filter(in_range))
def test_schema_and_model_judge_any_call_alike(body: dict[str, Any]) -> None:
    by_json_schema = by_schema(contract.json_schema("call"), body)
    assert by_json_schema is by_model("call", json.dumps(body))


@given(calls)
def test_the_schema_of_calls_accepts_all_that_the_model_accepts(body: dict[str, Any]) -> None:
    accepted = by_model("call", json.dumps(body))
    assert not accepted or by_schema(contract.json_schema("call"), body)


# --- topics ---------------------------------------------------------------------------------


def test_topics_name_schemas_that_exist_and_all_are_named() -> None:
    named = {name for topic in TOPICS.values() for name in topic.schemas}
    assert named == set(CONTRACTS)


def test_topics_share_partitions_with_topics_that_exist() -> None:
    chosen = [name for name, topic in TOPICS.items() if topic.partitions == 0]
    assert chosen == ["customer-events"]
    for topic in TOPICS.values():
        assert topic.partitions in (0, 1, "customer-events")
    assert {name: topic.partitions_for(64) for name, topic in TOPICS.items()} == {
        "customer-events": 64,
        "segment-changes": 64,
        "customer-segments": 64,
        "feature-samples": 1,
        "segment-models": 1,
        "customer-events-dlq": 64,
    }


def test_topics_can_hold_what_is_written_to_them() -> None:
    limit = {name: int(topic.config["max.message.bytes"]) for name, topic in TOPICS.items()}
    assert limit["customer-events"] == 10 * 1024 * 1024
    assert limit["customer-events-dlq"] == limit["customer-events"] + 64 * 1024
    assert TOPICS["customer-events"].config["message.timestamp.type"] == "LogAppendTime"
    for topic in TOPICS.values():
        compacted = topic.config["cleanup.policy"] == "compact"
        assert compacted or topic.config["cleanup.policy"] == "delete"
        assert compacted or not topic.nulls, "a null means something on compacted topics only"
        assert all(isinstance(value, str) for value in topic.kafka_config().values())


# --- AsyncAPI -------------------------------------------------------------------------------


def test_asyncapi_is_valid_by_the_official_schema() -> None:
    official = json.loads(gzip.decompress(ASYNCAPI_SCHEMA.read_bytes()))
    validator = jsonschema.Draft7Validator(official)
    assert [error.json_path for error in validator.iter_errors(asyncapi())] == []


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolved(document: dict[str, Any], reference: str) -> Any:
    if reference.startswith("./"):
        return json.loads((SCHEMAS / reference[2:]).read_text())
    node: Any = document
    for step in reference.removeprefix("#/").split("/"):
        node = node[step]
    return resolved(document, node["$ref"]) if "$ref" in node else node


def test_asyncapi_references_resolve() -> None:
    document = asyncapi()
    for reference in references(document):
        assert resolved(document, reference), reference


def test_asyncapi_has_the_topics_and_their_schemas() -> None:
    document = asyncapi()
    channels = document["channels"]
    assert set(channels) == set(TOPICS)
    for name, topic in TOPICS.items():
        channel = channels[name]
        assert channel["address"] == name
        messages = [resolved(document, m["$ref"]) for m in channel["messages"].values()]
        payloads = [message["payload"] for message in messages]
        files = {r.removeprefix("./") for payload in payloads for r in references(payload)}
        assert files == {f"{schema}.json" for schema in topic.schemas}
        has_null = any(payload == {"type": "null"} for payload in payloads)
        assert has_null == topic.nulls


def test_asyncapi_operations_are_those_of_the_writers_and_readers() -> None:
    document = asyncapi()
    found: dict[tuple[str, str], set[str]] = {}
    for operation in document["operations"].values():
        topic = operation["channel"]["$ref"].removeprefix("#/channels/")
        (process,) = (tag["name"] for tag in operation["tags"])
        found.setdefault((topic, operation["action"]), set()).add(process)
        own = f"#/channels/{topic}/messages/"
        assert all(m["$ref"].startswith(own) for m in operation.get("messages", []))
    for name, topic_ in TOPICS.items():
        assert found[name, "send"] == set(topic_.writers)
        assert found[name, "receive"] == set(topic_.readers)


def test_asyncapi_examples_are_valid() -> None:
    for message in asyncapi()["components"]["messages"].values():
        for example in message.get("examples", []):
            reference = message["payload"]["schema"]["$ref"]
            schema = json.loads((SCHEMAS / reference).read_text())
            assert by_schema(schema, example["payload"])


def test_asyncapi_knows_all_reasons_of_dead_letters() -> None:
    headers = asyncapi()["components"]["schemas"]["deadLetterHeaders"]
    reasons = headers["properties"]["segstream.errors.reason"]["enum"]
    assert reasons == list(get_args(Fault))
    assert {*headers["required"], "segstream.errors.size"} == set(headers["properties"])
