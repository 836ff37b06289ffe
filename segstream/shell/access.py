"""Who may do what: whether Kafka lets a process in, and whether it is allowed what it needs.

Looked at when a process starts, because Kafka itself answers late and without names: what is
refused deep inside a transaction would only say "authorization failed".
"""

import re
import shlex
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, AdminClient  # type: ignore[attr-defined]

from segstream.ports import Refused, Unavailable
from segstream.shell.contract import Operation, rights
from segstream.shell.transaction import DENIED, REJECTED, SECONDS, Settings

Resource = Literal["topic", "group", "transactional-id"]

READER = "segstream.reader"
"""The group of all that read without one, in any namespace."""
SLICE = 0.05
COORDINATOR = {
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
}
"""What is said while the coordinator of a group is being found."""


class Right(NamedTuple):
    """One thing that is to be allowed. `prefixed`: on all that begin with the name."""

    operation: Operation
    resource: Resource
    name: str
    prefixed: bool = False

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}{'*' * self.prefixed}"

    @property
    def code(self) -> AclOperation:
        return AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.operation).upper()]


def rights_of(process: str, prefix: str, namespace: str) -> list[Right]:
    """What `schemas/rights.toml` says of a process, with the names of an installation."""
    needed = rights()[process]
    found = [Right(o, "topic", prefix + t) for t, all_ in needed.topics.items() for o in all_]
    spaced: tuple[tuple[Resource, Mapping[str, list[Operation]]], ...] = (
        ("group", needed.groups),
        ("transactional-id", needed.transactional_ids),
    )
    for resource, names in spaced:
        for name, operations in names.items():
            own = name if name == READER else f"{namespace}.{name}"
            full, star = own.removesuffix("*"), own.endswith("*")
            found += [Right(operation, resource, full, star) for operation in operations]
    return found


def enter(kafka: Settings, patience: float = SECONDS) -> AdminClient:
    """A client that Kafka has let in. Refused if it does not, Unavailable if it does not answer."""
    said: list[KafkaError] = []
    settings: dict[str, Any] = {**kafka, "error_cb": said.append}
    try:
        admin = AdminClient(settings)
    except KafkaException as wrong:  # a file that is not there, a user without a password
        why = wrong.args[0].str()
        raise Refused(f"Kafka's settings cannot be used: {why}. See SEGSTREAM_KAFKA_*") from wrong
    answer = admin.describe_cluster(request_timeout=patience)
    while not answer.done():
        admin.poll(SLICE)
        for error in said:
            if error.code() in REJECTED or "SSL alert" in error.str():
                raise Refused(
                    f"Kafka does not let this process in: {error.str()}{_reason(kafka, error)}. "
                    "Check the user, password and certificates in SEGSTREAM_KAFKA_*"
                )
    try:
        answer.result()
    except KafkaException as none:
        why = "; ".join(dict.fromkeys(e.str() for e in said)) or none.args[0].str()
        raise Unavailable(
            f"Kafka cannot be reached: {why}. Check SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS and, with "
            "TLS or SASL, SEGSTREAM_KAFKA_SECURITY_PROTOCOL"
        ) from none
    return admin


def _reason(kafka: Settings, error: KafkaError) -> str:
    """What Python says of a broker's certificate: librdkafka only says that it is wrong."""
    place = re.search(r"//\[?([^/\]]+)\]?:(\d+)/", error.str())
    if error.code() != KafkaError._SSL or place is None:  # noqa: SLF001 (the client's own name)
        return ""
    host, port = place.groups()
    try:
        context = ssl.create_default_context(
            cafile=kafka.get("ssl.ca.location"), cadata=kafka.get("ssl.ca.pem")
        )
        with socket.create_connection((host, int(port)), SECONDS) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as wrong:
        return f" ({wrong.verify_message.rstrip('.')})"
    except OSError:
        return ""
    return ""


def require(process: str, kafka: Settings, prefix: str, namespace: str) -> None:
    """Refused, naming all that is missing, unless Kafka lets this user do what a process must.

    Of transactional ids Kafka tells nothing: a missing right there comes up when the first one
    starts. What does not exist yet is not missed here.
    """
    # A process may start while a broker does.
    admin, by_name = enter(kafka, 3 * SECONDS), dict[tuple[Resource, str], list[Right]]()
    for right in rights_of(process, prefix, namespace):
        by_name.setdefault((right.resource, right.name), []).append(right)
    missing = []
    for (resource, name), wanted in by_name.items():
        if resource != "transactional-id":
            allowed = _allowed(admin, resource, name)
            missing += [r for r in wanted if allowed is not None and r.code not in allowed]
    if missing:
        raise Refused(
            f"Kafka does not allow this user: {', '.join(map(str, missing))}. Grant it: "
            f"`segstream rights {process}` prints the commands"
        )


def _allowed(admin: AdminClient, resource: Resource, name: str) -> set[AclOperation] | None:
    """What this user may do there; None if nobody knows."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            found = _ask(admin, resource, name).result()
        except KafkaException as error:
            code = error.args[0].code()
            if code in DENIED:
                return set()
            if code not in COORDINATOR or time.monotonic() > deadline:
                return None
            time.sleep(SLICE)
        else:
            return None if found.authorized_operations is None else {*found.authorized_operations}


def _ask(admin: AdminClient, resource: Resource, name: str) -> Future[Any]:
    options = {"include_authorized_operations": True, "request_timeout": SECONDS}
    if resource == "topic":
        return admin.describe_topics(TopicCollection([name]), **options)[name]
    return admin.describe_consumer_groups([name], **options)[name]


def commands(
    process: str, user: str, prefix: str, namespace: str, servers: str, *, cluster: bool = False
) -> Iterator[str]:
    """Lines for a shell that grant a user the rights of a process: Kafka's, then those of Redis.

    `cluster`: Redis is one; then its line is to be given to every node.
    """
    tool = ["kafka-acls.sh", "--bootstrap-server", servers]
    tool += ["--command-config", "admin.properties", "--add", "--allow-principal", f"User:{user}"]
    by_name = dict[tuple[Resource, str, bool], list[str]]()
    for right in rights_of(process, prefix, namespace):
        words = by_name.setdefault((right.resource, right.name, right.prefixed), [])
        words += ["--operation", right.operation]
    for (resource, name, prefixed), words in by_name.items():
        pattern = ["--resource-pattern-type", "prefixed"] if prefixed else []
        yield shlex.join([*tool, *words, f"--{resource}", name, *pattern])
    if rights()[process].redis:
        yield shlex.join(["redis-cli", *redis_rule(process, user, namespace, cluster=cluster)])


def redis_rule(process: str, user: str, namespace: str, *, cluster: bool = False) -> list[str]:
    """The command that makes a user of Redis for a process; it still needs a password."""
    words = (*CONNECTING, *(OF_CLUSTER if cluster else ()), *rights()[process].redis)
    allowed = [f"+{command}" for command in words]
    keys = ["resetkeys", f"~{namespace}:*"]
    return ["ACL", "SETUSER", user, "on", *keys, "resetchannels", "-@all", *allowed]


CONNECTING = ("auth", "hello", "select", "ping", "client|setinfo", "client|setname")
"""What a client needs to come in at all."""
OF_CLUSTER = ("cluster|slots", "command", "asking")
"""What it needs besides, to find its way in a cluster."""
