"""Certificates for tests, made anew each time: two authorities, and what they have signed."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

HERE = "127.0.0.1"


@dataclass(frozen=True)
class Certificate:
    """Paths of PEM files. `both`: key and chain in one, as Kafka wants them."""

    certificate: Path
    key: Path
    both: Path


class Certificates:
    """Made when they are first asked for, in a directory that is the test's own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()

    @cached_property
    def ca(self) -> Path:
        """The authority that everybody here trusts."""
        return self._written("ca", self._authority.cert_pem)

    @cached_property
    def stranger(self) -> Path:
        """An authority that has signed nothing here."""
        return self._written("stranger", trustme.CA().cert_pem)

    @cached_property
    def server(self) -> Certificate:
        return self.issue("server", HERE)

    @cached_property
    def elsewhere(self) -> Certificate:
        """Of a server of another name."""
        return self.issue("elsewhere", "elsewhere.example")

    @cached_property
    def expired(self) -> Certificate:
        return self.issue("expired", HERE, ends=datetime.now(UTC) - timedelta(days=1))

    def issue(self, name: str, *hosts: str, ends: datetime | None = None) -> Certificate:
        """Valid for a day, or until `ends`; `name` is its common name."""
        ends = ends or datetime.now(UTC) + timedelta(days=1)
        begins = ends - timedelta(days=30)
        made = self._authority.issue_cert(
            *(hosts or (f"{name}.example",)), common_name=name, not_before=begins, not_after=ends
        )
        key = load_pem_private_key(made.private_key_pem.bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        chain = b"".join(part.bytes() for part in made.cert_chain_pems)
        paths = []
        for kind, content in (("certificate", chain), ("key", key), ("both", key + chain)):
            path = self._directory / f"{name}.{kind}.pem"
            path.write_bytes(content)
            paths.append(path)
        return Certificate(*paths)

    def _written(self, name: str, blob: trustme.Blob) -> Path:
        path = self._directory / f"{name}.pem"
        path.write_bytes(blob.bytes())
        return path
