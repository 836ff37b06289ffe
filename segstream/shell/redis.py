"""Store on Redis: all of a partition in one hash slot. See `schemas/redis-state.md`.

<ns>:{p}:meta          Checkpoint, JSON          <ns>:{p}:m:<minute>   set of customers
<ns>:{p}:c:<customer>  State, packed bytes       <ns>:layout           for readers, JSON
"""

import os
import re
import ssl
from itertools import chain, islice
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec
from redis import AuthenticationError, Redis, RedisError, WatchError
from redis.backoff import NoBackoff
from redis.exceptions import AuthorizationError, NoPermissionError
from redis.retry import Retry

from segstream.core.batch import Checkpoint, Position
from segstream.core.step import Outcome
from segstream.ports import Announced, Refused, Unavailable

SECONDS = 5.0
AT_ONCE = 100
"""States in one MSET, of the many in a transaction: packing a large one takes twice as long."""

_decode = msgspec.json.Decoder(Checkpoint).decode

FILES = {
    "ssl_ca_certs": "SEGSTREAM_REDIS_CA",
    "ssl_certfile": "SEGSTREAM_REDIS_CERTIFICATE",
    "ssl_keyfile": "SEGSTREAM_REDIS_KEY",
}
"""What a URL says of files, and where it comes from."""


def connect(url: str) -> Redis:
    """A client that never repeats a command by itself: only the worker knows what is safe.

    With `rediss://` it looks at the server's certificate and name, whatever the client's version.
    """
    for name, path in parse_qsl(urlsplit(url).query):
        if name in FILES and not os.access(path, os.R_OK):
            raise Refused(f"Redis cannot be asked: the file {path} ({FILES[name]}) cannot be read")
    careful = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    return Redis.from_url(
        url,
        socket_timeout=SECONDS,
        socket_connect_timeout=SECONDS,
        retry=Retry(NoBackoff(), 0),
        client_name="segstream",
        **(careful if url.startswith("rediss://") else {}),
    )


def failure(error: RedisError) -> Exception:
    """What an error of Redis means for a process: Unavailable passes, Refused does not."""
    # Inside of transactions what is not allowed comes as another error.
    why = str(error).rstrip(".")
    denied = isinstance(error, NoPermissionError | AuthorizationError) or "NOPERM" in why
    if denied or "EXEC without MULTI" in why:
        return Refused(
            f"Redis does not allow it: {why}. Grant the right: `segstream rights` prints what "
            "the user needs"
        )
    if isinstance(error, AuthenticationError):
        return Refused(
            f"Redis does not let this process in: {why}. Check the user in SEGSTREAM_REDIS_URL "
            "and SEGSTREAM_REDIS_PASSWORD"
        )
    cause = error.__cause__ or error.__context__
    if isinstance(cause, ssl.SSLEOFError):
        hint = "If it never answers, it may ask for a certificate: SEGSTREAM_REDIS_CERTIFICATE"
        return Unavailable(f"Redis hung up: {why}. {hint}")
    if isinstance(cause, ssl.SSLError):
        return Refused(
            f"Redis cannot be trusted, or does not trust this process: {why}. Check the server's "
            "certificate, the host in SEGSTREAM_REDIS_URL, and SEGSTREAM_REDIS_CA, _CERTIFICATE "
            "and _KEY"
        )
    return Unavailable(f"Redis: {error}")


class Keys:
    """Names of all keys of a namespace."""

    def __init__(self, namespace: str) -> None:
        self.layout = f"{namespace}:layout"
        self._start = namespace

    def meta(self, partition: int) -> str:
        return f"{self._start}:{{{partition}}}:meta"

    def all(self, partition: int) -> str:
        """A pattern of all keys of a partition."""
        plain = re.sub(r"([\\*?\[\]])", r"\\\1", self._start)
        return f"{plain}:{{{partition}}}:*"

    def customer(self, partition: int, customer: str) -> str:
        return f"{self._start}:{{{partition}}}:c:{customer}"

    def minute(self, partition: int, minute: int | str) -> str:
        return f"{self._start}:{{{partition}}}:m:{minute}"


class RedisStore:
    """States and Checkpoints of a namespace."""

    def __init__(self, client: Redis, namespace: str) -> None:
        self._redis = client
        self.keys = Keys(namespace)

    def check(self) -> None:
        """Refused if this Redis may throw States away."""
        # Without the right to MULTI, Redis would still do one by one what was to be done at once.
        self._try(self._transaction)
        policy = self._try(lambda: self._redis.info("memory")).get("maxmemory_policy")
        if policy != "noeviction":
            raise Refused(
                f"Redis has maxmemory-policy {policy}: it would drop States silently when memory "
                "is short. Set maxmemory-policy noeviction"
            )

    def _transaction(self) -> None:
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.get(self.keys.layout)
            pipe.execute()

    def announced(self) -> Announced | None:
        found = self._try(lambda: self._redis.get(self.keys.layout))
        return None if found is None else announced_of(found)

    def announce(self, announced: Announced) -> None:
        body = msgspec.json.encode(announced._asdict())
        self._try(lambda: self._redis.set(self.keys.layout, body))

    def checkpoint(self, partition: int) -> Checkpoint | None:
        return checkpoint_of(self._try(lambda: self._redis.get(self.keys.meta(partition))))

    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        start = self.keys.minute(partition, "")
        keys = [f"{start}{minute}" for minute in minutes]

        def read() -> Any:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.get(self.keys.meta(partition))
                pipe.sunion(keys)
                return pipe.execute()

        meta, customers = self._try(read)
        return checkpoint_of(meta), [customer.decode() for customer in customers]

    def load(
        self, partition: int, customers: list[str]
    ) -> tuple[Checkpoint | None, list[bytes | None]]:
        start = self.keys.customer(partition, "")
        keys = [self.keys.meta(partition), *(start + customer for customer in customers)]
        meta, *blobs = self._try(lambda: self._redis.mget(keys))
        return checkpoint_of(meta), blobs

    def write(self, partition: int, base: Position | None, outcome: Outcome) -> bool:
        return bool(self._try(lambda: self._write(partition, base, outcome)))

    def _write(self, partition: int, base: Position | None, outcome: Outcome) -> bool:
        meta = self.keys.meta(partition)
        start = self.keys.customer(partition, "")
        pipe: Any
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.watch(meta)
            there = checkpoint_of(pipe.get(meta))
            if there is not None and there.position == outcome.checkpoint.position:
                return True  # a reply was lost: this very write has happened
            if (there and there.position) != base:
                return False
            pipe.multi()
            states = ((start + customer, blob) for customer, blob in outcome.writes)
            writes = chain([(meta, msgspec.json.encode(outcome.checkpoint))], states)
            while some := dict(islice(writes, AT_ONCE)):
                pipe.mset(some)
            if outcome.deletes:
                pipe.delete(*(start + customer for customer in outcome.deletes))
            for minute, customer in outcome.unindexed:
                pipe.srem(self.keys.minute(partition, minute), customer)
            for minute, customer in outcome.indexed:
                pipe.sadd(self.keys.minute(partition, minute), customer)
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    def _try(self, call: Any) -> Any:
        try:
            return call()
        except RedisError as error:
            raise failure(error) from error


def announced_of(layout: bytes) -> Announced:
    """What the key `<ns>:layout` says; `topic` is empty if it was written without."""
    try:
        return Announced(**{"topic": "", **msgspec.json.decode(layout)})
    except (msgspec.MsgspecError, TypeError) as error:
        raise Refused(f"Redis layout is not of this version: {error}") from error


def checkpoint_of(meta: bytes | None) -> Checkpoint | None:
    """The Checkpoint in `meta`; Refused if it is none."""
    if meta is None:
        return None
    try:
        return _decode(meta)
    except msgspec.MsgspecError as error:
        raise Refused(f"Redis meta is not a Checkpoint of this version: {error}") from error
