"""What must not be seen: which values are secret, how they come in, how the others are shown.

A secret comes from the environment, or from a file that `SEGSTREAM_<NAME>_FILE` names, as Docker
and Kubernetes mount them. In segstream.toml it is refused: that file is read, copied and committed.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from segstream.core.check import Mistake

MASK = "********"
SUFFIX = "_FILE"
#: What is not shown. Wider than what is secret: rather a path too few than a password too many.
HIDDEN = re.compile(r"pass|secret|key|token|jaas|pem|oauthbearer\.config", re.IGNORECASE)
#: What must not stand in segstream.toml.
SECRET = re.compile(
    r"(^|[._])(password|passphrase|secret|key[._]pem|oauthbearer[._]config)$|jaas", re.IGNORECASE
)
#: Of Redis, what may hold one.
OF_REDIS = {"SEGSTREAM_REDIS_URL", "SEGSTREAM_REDIS_PASSWORD"}
IN_URL = re.compile(r"(?i)((?:\w*password|username|secret|token)=)[^&]*")


def safe(name: str, value: Any) -> Any:
    """A value as it may be shown under its name."""
    if HIDDEN.search(name):
        return MASK
    if isinstance(value, dict):
        return {key: safe(str(key), inner) for key, inner in value.items()}
    return masked(value) if isinstance(value, str) else value


def masked(url: str) -> str:
    """A URL without its credentials, whether they stand before the host or in the query."""
    head, at, host = url.rpartition("@")
    if at:
        scheme, _, _ = head.partition("://")
        url = f"{scheme}://{MASK}@{host}"
    return IN_URL.sub(rf"\g<1>{MASK}", url)


def has_password(url: str) -> bool:
    """Whether somebody who reads the URL knows a password."""
    before, at, _ = url.rpartition("@")
    return bool(at and ":" in before.partition("://")[2]) or "password=" in url.lower()


def whole(url: str, password: str | None, files: Mapping[str, str | None]) -> str:
    """A URL of Redis with the password and, in its query, the files that TLS needs."""
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    if password is not None:
        user, _, host = place.rpartition("@")
        place = f"{user}:{quote(password, safe='')}@{host}"
    more = urlencode({name: path for name, path in files.items() if path is not None})
    joint = "&" if "?" in url else "?"
    return f"{scheme}://{place}{slash}{path}{joint if more else ''}{more}"


def from_files(environment: Mapping[str, str]) -> tuple[dict[str, str], list[Mistake]]:
    """The environment with the contents of files in place of the variables that name them."""
    named = {name for name in environment if takes_file(name)}
    variables = {name: value for name, value in environment.items() if name not in named}
    mistakes = []
    for name in sorted(named):
        variable, path = name.removesuffix(SUFFIX), environment[name]
        if variable in variables:
            mistakes.append(Mistake((name,), path, f"and {variable} are both given: leave one"))
            continue
        try:
            variables[variable] = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except OSError as error:
            mistakes.append(Mistake((name,), path, f"no such file can be read: {error.strerror}"))
        except ValueError:  # not UTF-8, or no path
            mistakes.append(Mistake((name,), path, "is not the name of a text file in UTF-8"))
    return variables, mistakes


def takes_file(name: str) -> bool:
    """Whether a variable names the file of a secret."""
    variable = name.removesuffix(SUFFIX)
    kafka = variable.startswith("SEGSTREAM_KAFKA_") and SECRET.search(variable)
    return variable != name and (variable in OF_REDIS or bool(kafka))


def in_the_open(body: Mapping[str, Any]) -> Iterator[Mistake]:
    """Secrets that stand in segstream.toml; `body` as read, `[kafka]` flat."""
    kafka, redis = body.get("kafka"), body.get("redis")
    for name, value in (kafka if isinstance(kafka, dict) else {}).items():
        if SECRET.search(name):
            variable = "SEGSTREAM_KAFKA_" + name.upper().replace(".", "_")
            yield _exposed(("kafka", name), value, variable)
    for name, value in (redis if isinstance(redis, dict) else {}).items():
        if name == "password" or (name == "url" and has_password(str(value))):
            yield _exposed(("redis", name), value, f"SEGSTREAM_REDIS_{name.upper()}")


def _exposed(path: tuple[str, ...], value: Any, variable: str) -> Mistake:
    return Mistake(
        path,
        value,
        "holds a secret, which must not stand in this file: put it into the variable "
        f"{variable}, or into a file that {variable}{SUFFIX} names",
    )


class Redis(Protocol):
    """What the settings say of Redis, see there."""

    @property
    def url(self) -> str: ...
    @property
    def ca(self) -> str | None: ...
    @property
    def certificate(self) -> str | None: ...
    @property
    def key(self) -> str | None: ...


def astray(redis: Redis) -> list[Mistake]:
    """Files for TLS where there is none, or the half of a pair."""
    files = {"ca": redis.ca, "certificate": redis.certificate, "key": redis.key}
    given = {name: path for name, path in files.items() if path is not None}
    if given and not redis.url.startswith(("rediss://", "rediss+cluster://")):
        text = "is for TLS: begin redis.url with rediss:// (of a cluster: rediss+cluster://)"
        return [Mistake(("redis", name), path, text) for name, path in given.items()]
    if "key" in given and "certificate" not in given:
        return [Mistake(("redis", "key"), redis.key, "belongs to a certificate: redis.certificate")]
    return []
