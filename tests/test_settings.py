"""Settings: the environment over the file, every mistake at once, no secret ever shown."""

from pathlib import Path
from typing import Any

import pytest
from redis.connection import parse_url

from consumers.settings import Settings, load, presets
from consumers.trainer import training_of
from segstream.core.check import ConfigError
from segstream.ports import Refused
from segstream.shell.redis_client import connect

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


def test_the_number_of_segments_is_given_or_chosen(file: Path) -> None:
    given, chosen, bounded = (
        training_of(written(file, f"[training]\n{text}"))
        for text in (
            "segments = 8",
            'segments = "auto"',
            'segments = "auto"\nfewest = 3\nmost = 5',
        )
    )
    assert (given.k, given.bounds) == (8, None)
    assert chosen.bounds == (4, 10)
    assert bounded.bounds == (3, 5)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ('segments = "many"', "segments", "a whole number of 2 to 100, or auto"),
        ("segments = 1", "segments", "a whole number of 2 to 100, or auto"),
        ("segments = 101", "segments", "a whole number of 2 to 100, or auto"),
        ('segments = "6"', "segments", "a whole number of 2 to 100, or auto"),
        ("fewest = 5\nmost = 4", "most", "not be below fewest = 5"),
        ("fewest = 1", "fewest", "greater than or equal to 2"),
    ],
)
def test_a_number_of_segments_that_cannot_be(text: str, key: str, words: str, file: Path) -> None:
    found = mistakes(f"[training]\n{text}", file)
    assert list(found) == [f"training.{key}"]
    assert words in found[f"training.{key}"]


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


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    """As Docker and Kubernetes mount them; a line end at the end is no part of it."""
    secret = tmp_path / "secret"
    secret.write_text("p@ss/w%rd:\n")
    settings = load(
        {
            "SEGSTREAM_KAFKA_SASL_PASSWORD_FILE": str(secret),
            "SEGSTREAM_KAFKA_SSL_KEY_PEM_FILE": str(secret),
            "SEGSTREAM_REDIS_URL": "rediss://segmenter@redis:6380/1?protocol=2",
            "SEGSTREAM_REDIS_PASSWORD_FILE": str(secret),
            "SEGSTREAM_REDIS_CA": str(secret),
        }
    )
    assert settings.kafka["sasl.password"] == settings.kafka["ssl.key.pem"] == "p@ss/w%rd:"
    found = parse_url(settings.redis.url)  # type: ignore[no-untyped-call]
    assert (found["username"], found["password"]) == ("segmenter", "p@ss/w%rd:")
    assert (found["host"], found["port"], found["db"], found["protocol"]) == ("redis", 6380, 1, 2)
    assert found["ssl_ca_certs"] == str(secret)
    secret.write_text("redis://elsewhere")
    assert load({"SEGSTREAM_REDIS_URL_FILE": str(secret)}).redis.url == "redis://elsewhere"


def test_a_property_that_names_a_file_is_none_of_ours() -> None:
    name = "SEGSTREAM_KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE"
    assert load({name: "/key"}).kafka["sasl.oauthbearer.assertion.private.key.file"] == "/key"


@pytest.mark.parametrize("given", ["{secret}", "/nowhere", "{directory}", CANARY, "\0"])
def test_a_secret_that_cannot_be_read_is_a_mistake(tmp_path: Path, given: str, file: Path) -> None:
    """Nor do both ways at once say which one is meant."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"\xff")
    name = "SEGSTREAM_KAFKA_SASL_PASSWORD_FILE"
    path = given.format(secret=secret, directory=tmp_path)
    assert "file" in mistakes("", file, **{name: path})[name]
    both = mistakes("", file, **{name: path, "SEGSTREAM_KAFKA_SASL_PASSWORD": CANARY})
    assert "are both given" in both[name]


IN_THE_OPEN = {
    "kafka.sasl.password": f'[kafka]\nsasl.password = "{CANARY}"',
    "kafka.ssl.key.pem": f'[kafka]\n"ssl.key.pem" = "{CANARY}"',
    "kafka.sasl.oauthbearer.client.secret": (
        f'[kafka.sasl.oauthbearer.client]\nsecret = "{CANARY}"'
    ),
    "redis.password": f'[redis]\npassword = "{CANARY}"',
    "redis.url": f'[redis]\nurl = "rediss://user:{CANARY}@host"',
}


@pytest.mark.parametrize("key", IN_THE_OPEN)
def test_a_secret_in_the_file_is_refused(key: str, file: Path) -> None:
    said = mistakes(IN_THE_OPEN[key], file)[key]
    variable = "SEGSTREAM_" + key.upper().replace(".", "_")
    assert f"put it into the variable {variable}, or into a file that {variable}_FILE names" in said


def test_names_and_places_may_stand_in_the_file(file: Path) -> None:
    text = """
        [kafka]
        sasl.username = "u"
        ssl.ca.location = "/ca.pem"
        ssl.key.location = "/key.pem"
        sasl.oauthbearer.token.endpoint.url = "https://login"
        [redis]
        url = "rediss://user@host"
    """
    assert written(file, text).redis.url == "rediss://user@host"


@pytest.mark.parametrize(
    ("environment", "key", "words"),
    [
        ({"SEGSTREAM_REDIS_CA": "/ca.pem"}, "redis.ca", "begin redis.url with rediss://"),
        (
            {"SEGSTREAM_REDIS_URL": "rediss://h", "SEGSTREAM_REDIS_KEY": "/key.pem"},
            "redis.key",
            "belongs to a certificate",
        ),
    ],
)
def test_files_for_tls_are_looked_at(
    environment: dict[str, str], key: str, words: str, file: Path
) -> None:
    assert words in mistakes("", file, **environment)[key]


def test_a_file_for_tls_that_cannot_be_read_is_refused() -> None:
    """When it is needed: `config check` may run where it is not."""
    url = load(
        {"SEGSTREAM_REDIS_URL": "rediss://h", "SEGSTREAM_REDIS_CA": "/nowhere.pem"}
    ).redis.url
    with pytest.raises(Refused, match=r"/nowhere.pem \(SEGSTREAM_REDIS_CA\) cannot be read"):
        connect(url)


MISTAKEN: dict[str, tuple[str, dict[str, str]]] = {
    "of a wrong type": (f'[kafka.sasl]\npassword = ["{CANARY}"]', {}),
    "in a wrong URL": ("", {"SEGSTREAM_REDIS_URL": f"http://user:{CANARY}@host"}),
    "under a wrong name": ("", {"SEGSTREAM_REDIS_PASWORD": CANARY}),
    "under no name at all": ("", {"SEGSTREAM_RDS": CANARY}),
    "of no property": ("", {"SEGSTREAM_KAFKA_SASL_PASWORD": CANARY}),
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
