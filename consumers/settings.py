"""Settings of a process: segstream.toml, then the environment. The only place that reads either.

Every mistake is reported at once, with its key path. Environment variables win over the file:
`SEGSTREAM_CONFIG`, those of VARIABLES, and `SEGSTREAM_KAFKA_<NAME>` for any librdkafka property
(`SEGSTREAM_KAFKA_SASL_PASSWORD` is `sasl.password`). Secrets: `consumers/credentials.py`.
"""

import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from consumers import credentials
from consumers.credentials import MASK
from segstream.core import expression
from segstream.core.check import ConfigError, Mistake, define, mistakes_of
from segstream.core.config import DAY, Definition, Duration
from segstream.core.hash import Partitioner

DEFINITION_KEYS = frozenset(Definition.model_fields)
PREFIX = "SEGSTREAM_"
KAFKA_PREFIX = "SEGSTREAM_KAFKA_"
#: Environment variables besides SEGSTREAM_KAFKA_*, and the setting that each stands for.
VARIABLES = {
    "SEGSTREAM_NAMESPACE": ("namespace",),
    "SEGSTREAM_SLOT": ("slot",),
    "SEGSTREAM_GRACE": ("grace",),
    "SEGSTREAM_REDIS_URL": ("redis", "url"),
    "SEGSTREAM_REDIS_PASSWORD": ("redis", "password"),
    "SEGSTREAM_REDIS_CA": ("redis", "ca"),
    "SEGSTREAM_REDIS_CERTIFICATE": ("redis", "certificate"),
    "SEGSTREAM_REDIS_KEY": ("redis", "key"),
    "SEGSTREAM_METRICS_PORT": ("metrics", "port"),
    "SEGSTREAM_METRICS_ADDRESS": ("metrics", "address"),
    "SEGSTREAM_CLOCK_IDLE": ("clock", "idle"),
    "SEGSTREAM_PARTITIONS": ("topics", "partitions"),
    "SEGSTREAM_REPLICATION": ("topics", "replication"),
}
#: Set by segstream itself; another value would break a guarantee.
OWN = frozenset(
    {
        "group.id", "transactional.id", "isolation.level", "enable.auto.commit",
        "enable.auto.offset.store", "auto.offset.reset", "enable.idempotence",
        "partition.assignment.strategy",
    }
)  # fmt: skip
#: librdkafka writes a line per failed attempt to connect; what matters reaches us as errors.
QUIET = {"log_level": 2, "log.connection.close": False, "reconnect.backoff.ms": 200}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _duration_or_off(text: str) -> str:
    if text != "off":
        expression.parse_duration(text)
    return text


def _ms(text: str) -> int:
    """`off` is 0."""
    return 0 if text == "off" else expression.parse_duration(text)


class RedisSettings(Part):
    """Where States and Checkpoints are kept."""

    url: str = Field(
        default="redis://127.0.0.1:6379/0",
        pattern=r"^(rediss?(\+cluster)?|unix)://",
        description="URL of Redis or Valkey, with the user; `rediss://` for TLS. Of a cluster: "
        "`redis+cluster://` or `rediss+cluster://`, with one node or several: `a:6379,b:6379`",
    )
    password: str | None = Field(default=None, description="of the user; never in the file")
    ca: str | None = Field(
        default=None,
        description="PEM file of the authorities that may have signed the server's certificate; "
        "default: those of the system",
    )
    certificate: str | None = Field(
        default=None, description="PEM file of an own certificate, if the server asks for one"
    )
    key: str | None = Field(default=None, description="PEM file of its private key")
    oldest_backup: Duration | str = Field(
        default="off",
        description="age of the oldest backup that one would restore: segmenters then start only "
        "if `customer-events` is kept for longer; `off`: not looked at",
    )
    _known = field_validator("oldest_backup")(_duration_or_off)

    @property
    def oldest_backup_ms(self) -> int:
        """0: off."""
        return _ms(self.oldest_backup)

    def whole(self) -> "RedisSettings":
        """The same with everything in the URL, which is what clients take."""
        files = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        alone = dict.fromkeys(("password", "ca", "certificate", "key"))
        url = credentials.whole(self.url, self.password, files)
        return self.model_copy(update={**alone, "url": url})


class Topics(Part):
    """Names and shape of the topics."""

    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$", description="before every name")
    partitions: int = Field(
        default=4,
        ge=1,
        le=10_000,
        description="of customer-events and the topics keyed by customer; chosen once, "
        "at least 64 in production",
    )
    replication: int = Field(default=1, ge=1, le=10, description="copies of each partition")
    partitioner: Partitioner = Field(
        default="murmur2",
        description="what producers use: `murmur2` (Java) or `crc32` (librdkafka's default)",
    )


class MetricsSettings(Part):
    """The Prometheus endpoint of each process."""

    port: int = Field(default=9464, ge=0, le=65_535, description="0 chooses a free one")
    address: str = Field(default="127.0.0.1", description="`0.0.0.0` in a container")


class ClockSettings(Part):
    """The wall clock, which enters the log of silent partitions."""

    idle: Duration | str = Field(
        default="60s",
        description="silence after which the wall clock is appended to a partition; "
        "`off` for replays of old data",
    )

    _known = field_validator("idle")(_duration_or_off)

    @property
    def seconds(self) -> float:
        return _ms(self.idle) / 1000


class DeadLetterSettings(Part):
    """When too many records cannot be read."""

    halt_above: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of dead letters among a partition's latest 1,000 records above which "
        "it is halted until its process is started again; 1 = never",
    )


class TrainingSettings(Part):
    """How the model is learned."""

    segments: int | str = Field(
        default=6,
        description="how many (k); `auto`: chosen from the panel, see `fewest` and `most`",
    )

    @field_validator("segments")
    @classmethod
    def _number_or_auto(cls, segments: int | str) -> int | str:
        if segments != "auto" and (isinstance(segments, str) or not 2 <= segments <= 100):
            raise ValueError("must be a whole number of 2 to 100, or auto")
        return segments

    fewest: int = Field(default=4, ge=2, le=100, description="with `auto`: at least so many")
    most: int = Field(
        default=10,
        ge=2,
        le=100,
        description="with `auto`: at most so many; not below `fewest`. Left alone, scores of real "
        "customers prefer two segments",
    )
    first_customers: int = Field(
        default=500, ge=10, description="panel customers before the first version"
    )
    maintain: Duration = Field(
        default="7d",
        description="event time from one look at the model to the next, if drift brings none "
        "earlier; a version is published if it is worth it",
    )
    moved: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of the panel that a version must put into another segment than the one "
        "before, to be published. Others come after four times `maintain`, for their sizes and "
        "profiles. 0: all are published",
    )

    @field_validator("maintain")
    @classmethod
    def _whole_days(cls, text: str) -> str:
        if expression.parse_duration(text) % DAY:
            raise ValueError("a whole number of days is needed, such as 7d")
        return text

    challenger: float = Field(
        default=0.02, ge=0, le=1, description="how much better a fresh model must be to win"
    )
    seed: int = Field(default=0, ge=0, description="of the random starts")

    @field_validator("most")
    @classmethod
    def _not_below_fewest(cls, most: int, info: ValidationInfo) -> int:
        fewest = info.data.get("fewest", most)
        if most < fewest:
            raise ValueError(f"must not be below fewest = {fewest}")
        return most

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Of the number of segments, if it is chosen."""
        return (self.fewest, self.most) if self.segments == "auto" else None


class Settings(Part):
    """All settings of a process."""

    namespace: str = Field(
        default="segstream",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="prefix of Redis keys, consumer groups and transactional ids",
    )
    slot: str = Field(
        default_factory=socket.gethostname,
        pattern=r"^[A-Za-z0-9._-]{1,128}$",
        description="stable name of this worker; a restart under it recovers at once; "
        "default: the host name",
    )
    grace: Duration = Field(
        default="8s",
        description="after SIGTERM, for ending in order; then the process ends at once, which "
        "loses nothing. Below what its supervisor allows (Docker: 10 s, Kubernetes: 30 s)",
    )
    preset: str = Field(
        default="retail",
        description="definition to start from: retail, media; beside own measures: none",
    )
    kafka: dict[str, str | int | float | bool] = Field(
        default={**QUIET, "bootstrap.servers": "127.0.0.1:9092"},
        description="any librdkafka property",
    )
    redis: RedisSettings = RedisSettings()
    topics: Topics = Topics()
    metrics: MetricsSettings = MetricsSettings()
    clock: ClockSettings = ClockSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    training: TrainingSettings = TrainingSettings()
    definition: Definition

    @property
    def layout(self) -> str:
        return self.definition.digest(self.topics.partitions, self.topics.partitioner)

    @property
    def grace_seconds(self) -> float:
        return expression.parse_duration(self.grace) / 1000

    def topic(self, name: str) -> str:
        return self.topics.prefix + name

    def group(self, process: str) -> str:
        return f"{self.namespace}.{process}"

    def shown(self) -> dict[str, Any]:
        """All settings as they are in force, secrets masked."""
        body = self.model_dump(mode="json", exclude_none=True)
        return {**body, **{part: credentials.safe("", body[part]) for part in ("kafka", "redis")}}


def load(environment: Mapping[str, str] | None = None) -> Settings:
    """The settings in force; ConfigError names all mistakes at once."""
    environment = os.environ if environment is None else environment
    body, mistakes = _file(environment.get("SEGSTREAM_CONFIG"))
    body["kafka"] = dict(_flat(body.get("kafka", {})))
    mistakes += credentials.in_the_open(body)
    environment, unread = credentials.from_files(environment)
    mistakes += unread + _from_environment(body, environment)
    declared = {key: body.pop(key) for key in DEFINITION_KEYS & body.keys()}
    # Own measures are a definition of their own; a preset is then only what is asked for.
    body.setdefault("preset", "" if "measures" in declared else "retail")
    base, problems = _preset(body["preset"])
    mistakes += problems
    definition: Any = None
    try:
        definition = define(_merged(base, declared))
    except ConfigError as error:
        mistakes += error.mistakes
    mistakes += _kafka_mistakes(body["kafka"])
    here = {"bootstrap.servers": "127.0.0.1:9092"}
    body["kafka"] = {**QUIET, **here, **body["kafka"]}
    try:
        # A stand-in lets the other settings be checked when the definition has mistakes.
        settings = Settings.model_validate({**body, "definition": definition or define(_retail())})
    except ValidationError as error:
        raise _discreet(mistakes + mistakes_of(error)) from None
    mistakes = mistakes or credentials.astray(settings.redis)
    if mistakes:
        raise _discreet(mistakes)
    return settings.model_copy(update={"redis": settings.redis.whole()})


def _discreet(mistakes: list[Mistake]) -> ConfigError:
    """The mistakes, without the secrets that may stand at their places."""
    return ConfigError(
        [m._replace(value=credentials.safe(".".join(map(str, m.path)), m.value)) for m in mistakes]
    )


def presets() -> list[str]:
    """Names of the definitions that come with segstream."""
    names = [p.name for p in files("segstream.presets").iterdir() if p.name.endswith(".toml")]
    return sorted(n.removesuffix(".toml") for n in names if "-" not in n)


def _retail() -> dict[str, Any]:
    return tomllib.loads((files("segstream.presets") / "retail.toml").read_text())


def _preset(name: str) -> tuple[dict[str, Any], list[Mistake]]:
    if not name:
        return {}, []
    if name not in presets():
        text = f"there is no such preset; there are: {', '.join(presets())}"
        return _retail(), [Mistake(("preset",), name, text)]
    return tomllib.loads((files("segstream.presets") / f"{name}.toml").read_text()), []


def _file(path: str | None) -> tuple[dict[str, Any], list[Mistake]]:
    if path is None:
        return {}, []
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8")), []
    except OSError as error:
        return {}, [Mistake(("SEGSTREAM_CONFIG",), path, f"cannot be read: {error.strerror}")]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return {}, [Mistake(("SEGSTREAM_CONFIG",), path, f"is not TOML: {error}")]


def _from_environment(body: dict[str, Any], environment: Mapping[str, str]) -> list[Mistake]:
    mistakes = []
    for name, value in environment.items():
        if name.startswith(KAFKA_PREFIX):
            body["kafka"][_property(name)] = value
        elif name in VARIABLES:
            *sections, key = VARIABLES[name]
            place: Any = body
            for section in sections:
                place = place.setdefault(section, {})
            if isinstance(place, dict):  # otherwise the file is wrong there, which is said anyway
                place[key] = value
        elif name.startswith(PREFIX) and name != "SEGSTREAM_CONFIG":
            known = ", ".join(sorted([*VARIABLES, "SEGSTREAM_CONFIG", f"{KAFKA_PREFIX}*"]))
            mistakes.append(Mistake((name,), MASK, f"no such setting; there are: {known}"))
    return mistakes


def _property(variable: str) -> str:
    name = variable.removeprefix(KAFKA_PREFIX).lower()
    return name if name == "log_level" else name.replace("_", ".")


def _flat(table: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`[kafka] sasl.mechanism = …` is a nested table in TOML; librdkafka wants the dotted name."""
    if not isinstance(table, dict):
        yield path, table
        return
    for name, value in table.items():
        yield from _flat(value, f"{path}.{name}" if path else name)


def _kafka_mistakes(kafka: Mapping[str, Any]) -> list[Mistake]:
    mistakes = []
    for name, value in kafka.items():
        if name in OWN:
            mistakes.append(Mistake(("kafka", name), value, "is set by segstream itself"))
            continue
        try:
            Producer({name: value, "log_level": 0})
        except (KafkaException, TypeError, ValueError) as error:
            text = error.args[0].str() if isinstance(error, KafkaException) else str(error)
            if "No such configuration" in text or "Invalid value" in text:
                # Under a name that is none there may be anything, secrets too.
                shown = value if "Invalid value" in text else MASK
                mistakes.append(Mistake(("kafka", name), shown, text))
    return mistakes


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables of `over` added to those of `base`, name by name."""
    merged = dict(base)
    for key, value in over.items():
        there = merged.get(key)
        both = isinstance(there, dict) and isinstance(value, dict)
        merged[key] = {**there, **value} if both else value  # type: ignore[dict-item]
    return merged
