"""Kafka and Valkey as in production: TLS, users, rights. Everything is made for one run of tests.

Kafka has a listener for each way to come in; the plain one is the broker's own and the
administrator's, and no process under test knows of it. Valkey from the package was built without
TLS, so it stands behind a terminator, as behind stunnel or a cloud provider's proxy.
"""

import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from redis import Redis

from segstream.shell.access import Right, redis_rule
from segstream.shell.local import Servers, local_servers
from segstream.shell.local.plan import HOST, PORTS, _free, plan
from tests.integration.certificates import Certificate, Certificates

SCRAM = "SCRAM-SHA-512"
LISTENERS = {"SASL": "SASL_SSL", "MTLS": "SSL", "EXPIRED": "SASL_SSL", "ELSEWHERE": "SASL_SSL"}
PATTERN = {True: ResourcePatternType.PREFIXED, False: ResourcePatternType.LITERAL}


@dataclass(frozen=True)
class Secured:
    """The running servers. `kafka`, `redis`: ports by the way to come in."""

    servers: Servers
    certificates: Certificates
    kafka: Mapping[str, int]
    redis: Mapping[str, int]
    admin: AdminClient
    store: Redis
    directory: Path

    def password(self, user: str) -> str:
        """What nothing must ever say; it has all that could be quoted wrongly."""
        return f"c4n4ry {user}:p@ss/w%rd"

    def join(self, user: str, rights: Iterable[Right], process: str, namespace: str) -> None:
        """A user of both servers with these rights, and its password in a file."""
        password = self.password(user)
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        made = UserScramCredentialUpsertion(user, scram, password.encode())
        for future in self.admin.alter_user_scram_credentials([made]).values():
            future.result(10)
        self.allow(user, *rights)
        self.redis_rule(user, *redis_rule(process, user, namespace)[3:], f">{password}")
        (self.directory / f"{user}.password").write_text(password + "\n")

    def allow(self, user: str, *rights: Right) -> None:
        bindings = [AclBinding(*_rule(user, right)) for right in rights]
        for future in self.admin.create_acls(bindings).values() if bindings else ():
            future.result(10)

    def forbid(self, user: str, right: Right) -> None:
        """Take back exactly this one."""
        for future in self.admin.delete_acls([AclBindingFilter(*_rule(user, right))]).values():
            assert len(future.result(10)) == 1

    def redis_rule(self, user: str, *rules: str) -> None:
        self.store.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call]

    def environment(
        self, user: str, listener: str = "SASL", redis: str = "server"
    ) -> dict[str, str]:
        """What a process needs to come in as this user, secrets in files."""
        secret = str(self.directory / f"{user}.password")
        return {
            "SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{self.kafka[listener]}",
            "SEGSTREAM_KAFKA_SECURITY_PROTOCOL": LISTENERS[listener],
            "SEGSTREAM_KAFKA_SASL_MECHANISM": SCRAM,
            "SEGSTREAM_KAFKA_SASL_USERNAME": user,
            "SEGSTREAM_KAFKA_SASL_PASSWORD_FILE": secret,
            "SEGSTREAM_KAFKA_SSL_CA_LOCATION": str(self.certificates.ca),
            "SEGSTREAM_REDIS_URL": f"rediss://{user}@{HOST}:{self.redis[redis]}/0",
            "SEGSTREAM_REDIS_PASSWORD_FILE": secret,
            "SEGSTREAM_REDIS_CA": str(self.certificates.ca),
        }


def _rule(user: str, right: Right) -> tuple[Any, ...]:
    kind = ResourceType[right.resource.replace("-", "_").upper()]
    return (
        kind, right.name, PATTERN[right.prefixed], f"User:{user}", "*", right.code,
        AclPermissionType.ALLOW,
    )  # fmt: skip


@contextmanager
def secured(directory: Path) -> Iterator[Secured]:
    """Start it all; stopped on the way out."""
    certificates, home = Certificates(directory), directory / "servers"
    home.mkdir()
    own, controller = plan(home, 1, new_ports=False).kafka[0]
    ports = dict(zip(LISTENERS, filter(_free, reversed(PORTS)), strict=False))
    config = _kafka_config(certificates, own, controller, ports)
    of_redis = {
        "server": certificates.server,
        "mutual": certificates.server,
        "expired": certificates.expired,
        "elsewhere": certificates.elsewhere,
    }
    with local_servers(home, kafka_config=config) as servers, ExitStack() as stack:
        assert f":{own}" in servers.bootstrap_servers, "another process took the planned port"
        upstream = int(servers.redis_url.rpartition(":")[2].partition("/")[0])
        fronts = {
            name: stack.enter_context(
                terminator(upstream, made, certificates.ca if name == "mutual" else None)
            )
            for name, made in of_redis.items()
        }
        settings: dict[str, Any] = {"bootstrap.servers": servers.bootstrap_servers, "log_level": 0}
        admin = AdminClient(settings)
        with Redis.from_url(servers.redis_url) as store:
            yield Secured(servers, certificates, ports, fronts, admin, store, directory)


def _kafka_config(
    certificates: Certificates, own: int, controller: int, ports: Mapping[str, int]
) -> dict[str, str]:
    addresses = {"PLAINTEXT": own, "CONTROLLER": controller, **ports}
    protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **LISTENERS}
    config = {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in addresses.items()),
        "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
        "inter.broker.listener.name": "PLAINTEXT",
        "sasl.enabled.mechanisms": SCRAM,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Whoever comes by the plain listener: broker, controller, administrator.
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.ca),
        "ssl.principal.mapping.rules": r"RULE:^.*CN=([a-z-]+).*$/$1/",
        "listener.name.mtls.ssl.client.auth": "required",
    }
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    shown = {"EXPIRED": certificates.expired, "ELSEWHERE": certificates.elsewhere}
    for name, protocol in LISTENERS.items():
        start = f"listener.name.{name.lower()}"
        config[f"{start}.ssl.keystore.type"] = "PEM"
        config[f"{start}.ssl.keystore.location"] = str(shown.get(name, certificates.server).both)
        if protocol == "SASL_SSL":
            config[f"{start}.{SCRAM.lower()}.sasl.jaas.config"] = module
    return config


@contextmanager
def redis_with_tls(directory: Path, certificates: Certificates) -> Iterator[int | None]:
    """A Redis or Valkey that speaks TLS itself and asks for certificates; None if there is none."""
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        yield None
        return
    port, shown = next(filter(_free, PORTS)), certificates.server
    files = {"cert-file": shown.certificate, "key-file": shown.key, "ca-cert-file": certificates.ca}
    command = [found, "--bind", HOST, "--port", "0", "--tls-port", str(port), "--save", ""]
    command += [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL) as process:
        try:
            while process.poll() is None and _free(port):
                time.sleep(0.05)
            yield port if process.poll() is None else None  # it ends if it was built without TLS
        finally:
            process.kill()


@contextmanager
def terminator(upstream: int, shown: Certificate, asks: Path | None = None) -> Iterator[int]:
    """TLS in front of a plain port; the port it listens on. `asks`: who signs clients, if asked."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=asks)
    context.load_cert_chain(shown.certificate, shown.key)
    if asks is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    over = threading.Event()

    class Front(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(10)
            with context.wrap_socket(
                self.request, server_side=True, do_handshake_on_connect=False
            ) as front:
                try:
                    front.do_handshake()
                except OSError:  # a client that is refused is to read why before we hang up
                    with suppress(OSError):
                        front.shutdown(socket.SHUT_WR)
                        while front.recv(1 << 16):
                            pass
                    return
                with suppress(OSError):
                    pass_on(front)

    def pass_on(front: ssl.SSLSocket) -> None:
        with socket.create_connection((HOST, upstream)) as back:
            while not over.is_set():
                ready = [front] if front.pending() else select([front, back], [], [], 0.2)[0]
                for source in ready:
                    chunk = source.recv(1 << 16)
                    if not chunk:
                        return
                    (back if source is front else front).sendall(chunk)

    with socketserver.ThreadingTCPServer((HOST, 0), Front) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            over.set()
            server.shutdown()
