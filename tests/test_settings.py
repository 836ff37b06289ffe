"""Settings: the environment over the file, every mistake at once, no secret ever shown."""

from pathlib import Path
from typing import Any

import pytest

from consumers.settings import Settings, load, presets
from segstream.core.check import ConfigError

CANARY = "c4n4ry"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "segstream.toml"


def written(file: Path, text: str, **environment: str) -> Settings:
    file.write_text(text, encoding="utf-8")
    return load({"SEGSTREAM_CONFIG": str(file), **environment})


def mistakes(text: str, file: Path, **environment: str) -> dict[str, str]:
    """Key path → what is said of it."""
    with pytest.raises(ConfigError) as caught:
        written(file, text, **environment)
    assert CANARY not in str(caught.value)
    return {".".join(map(str, m.path)): str(m) for m in caught.value.mistakes}


def test_without_anything_there_are_defaults() -> None:
    settings = load({"PATH": "/bin", "HOME": "/root"})
    assert (settings.namespace, settings.preset) == ("segstream", "retail")
    assert settings.kafka["bootstrap.servers"] == "127.0.0.1:9092"
    assert settings.topics.partitions == 4
    assert "orders" in settings.definition.measures


def test_the_environment_wins_over_the_file(file: Path) -> None:
    text = """
        namespace = "file"
        slot = "file"
        [redis]
        url = "redis://file:1"
        [topics]
        partitions = 8
        prefix = "p-"
        [clock]
        idle = "5m"
        [kafka]
        bootstrap.servers = "file:9092"
        client.id = "file"
    """
    settings = written(
        file,
        text,
        SEGSTREAM_NAMESPACE="environment",
        SEGSTREAM_REDIS_URL="redis://environment:1",
        SEGSTREAM_PARTITIONS="16",
        SEGSTREAM_CLOCK_IDLE="off",
        SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS="environment:9092",
    )
    assert (settings.namespace, settings.slot) == ("environment", "file")
    assert settings.redis.url == "redis://environment:1"
    assert (settings.topics.partitions, settings.topic("x")) == (16, "p-x")
    assert (settings.clock.idle, settings.clock.seconds) == ("off", 0.0)
    assert settings.kafka["bootstrap.servers"] == "environment:9092"
    assert settings.kafka["client.id"] == "file"


def test_kafka_properties_may_be_nested_or_quoted(file: Path) -> None:
    """`sasl.mechanism = …` is a nested table in TOML."""
    text = """
        [kafka]
        sasl.mechanism = "PLAIN"
        "security.protocol" = "SASL_SSL"
        ssl.ca.location = "/ca.pem"
        [kafka.socket.keepalive]
        enable = true
    """
    kafka = written(file, text).kafka
    assert kafka["sasl.mechanism"] == "PLAIN"
    assert kafka["security.protocol"] == "SASL_SSL"
    assert kafka["ssl.ca.location"] == "/ca.pem"
    assert kafka["socket.keepalive.enable"] is True


def test_all_mistakes_at_once_with_their_key_paths(file: Path) -> None:
    text = """
        namespace = "not a name"
        nonsense = 1
        [redis]
        url = "http://wrong"
        [topics]
        partitions = 0
        [clock]
        idle = "often"
        [kafka]
        group.id = "mine"
        partition.assignment.strategy = "cooperative-sticky"
        no.such.property = 1
        acks = "many"
        [tick]
        period = "7h"
        [features.f]
        expression = "nobody[90d]"
    """
    found = mistakes(
        text, file, SEGSTREAM_NAMESPCE="x", SEGSTREAM_METRICS_PORT="high", SEGSTREAM_KAFKA_FOO="1"
    )
    assert set(found) == {
        "namespace", "nonsense", "redis.url", "topics.partitions", "clock.idle",
        "kafka.group.id", "kafka.partition.assignment.strategy", "kafka.no.such.property",
        "kafka.acks", "kafka.foo",
        "tick.period", "features.f.expression", "SEGSTREAM_NAMESPCE", "metrics.port",
    }  # fmt: skip
    assert "is set by segstream itself" in found["kafka.group.id"]
    assert "SEGSTREAM_NAMESPACE" in found["SEGSTREAM_NAMESPCE"]  # what there is instead
    assert "nobody is not a measure" in found["features.f.expression"]


@pytest.mark.parametrize(
    ("text", "words"),
    [("namespace = ", "is not TOML"), ("a = 1\na = 2", "is not TOML"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_read(file: Path, text: str | None, words: str) -> None:
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load({"SEGSTREAM_CONFIG": str(file)})


def test_a_preset_is_a_base_and_own_measures_stand_alone(file: Path) -> None:
    assert "retail" in presets()
    more = '[measures.returns]\nkind = "count"\nevents = ["Order Returned"]\n'
    over = written(file, 'preset = "retail"\n' + more).definition
    assert {"orders", "returns"} <= over.measures.keys()
    alone = written(file, more + '[features.r]\nexpression = "returns[7d]"\n').definition
    assert list(alone.measures) == ["returns"]
    assert "there is no such preset" in mistakes('preset = "moon"', file)["preset"]


# --- secrets --------------------------------------------------------------------------------

SECRETS: dict[str, dict[str, str]] = {
    "sasl": {"SEGSTREAM_KAFKA_SASL_PASSWORD": CANARY},
    "key": {"SEGSTREAM_KAFKA_SSL_KEY_PASSWORD": CANARY},
    "oauth": {"SEGSTREAM_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET": CANARY},
    "redis": {"SEGSTREAM_REDIS_URL": f"rediss://user:{CANARY}@host:6379/0"},
    "redis without a user": {"SEGSTREAM_REDIS_URL": f"redis://:{CANARY}@host"},
    "redis with an at sign": {"SEGSTREAM_REDIS_URL": f"redis://u:{CANARY}@{CANARY}@host"},
    "redis with a query": {"SEGSTREAM_REDIS_URL": f"redis://host/0?password={CANARY}"},
    "redis on a socket": {"SEGSTREAM_REDIS_URL": f"unix:///run/redis?db=1&password={CANARY}"},
}


@pytest.mark.parametrize(
    "environment",
    [pytest.param(given, id=name) for name, given in SECRETS.items()],
)
def test_secrets_are_in_force_and_never_shown(environment: dict[str, str]) -> None:
    settings = load(environment)
    assert CANARY in repr([settings.kafka, settings.redis])
    assert CANARY not in repr(settings.shown())
    assert "********" in repr(settings.shown())


MISTAKEN: dict[str, tuple[str, dict[str, str]]] = {
    "of a wrong type": (f'[kafka.sasl]\npassword = ["{CANARY}"]', {}),
    "in a wrong URL": ("", {"SEGSTREAM_REDIS_URL": f"http://user:{CANARY}@host"}),
    "under a wrong name": ("", {"SEGSTREAM_REDIS_PASSWORD": CANARY}),
    "of no property": ("", {"SEGSTREAM_KAFKA_SASL_PASWORD_SECRET": CANARY}),
    "in a table for a URL": (f'[redis]\npassword = "{CANARY}"', {}),
}


@pytest.mark.parametrize(
    "mistaken",
    [pytest.param(given, id=name) for name, given in MISTAKEN.items()],
)
def test_a_mistake_does_not_tell_a_secret(mistaken: tuple[str, dict[str, str]], file: Path) -> None:
    text, environment = mistaken
    assert mistakes(text, file, **environment)


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        pytest.param('redis = "x"', {"SEGSTREAM_REDIS_URL": "redis://y"}),
        pytest.param("topics = 4", {"SEGSTREAM_PARTITIONS": "8"}),
        ("kafka = 4", {}),
        ("measures = 4", {}),
        ("features = []", {}),
        ("preset = {}", {}),
        ("preset = 7", {}),
        ("money = 7", {}),
    ],
)
def test_a_value_where_a_table_belongs_is_a_mistake_like_others(
    text: str, environment: dict[str, Any], file: Path
) -> None:
    assert mistakes(text, file, **environment)
