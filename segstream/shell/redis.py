"""Store on Redis: all of a partition in one hash slot. See `schemas/redis-state.md`.

<ns>:{p}:meta          Checkpoint, JSON          <ns>:{p}:m:<minute>   set of customers
<ns>:{p}:c:<customer>  State, packed bytes       <ns>:layout           for readers, JSON
"""

import re
from collections.abc import Callable
from itertools import chain, islice
from typing import Any, TypeVar

import msgspec
from redis import Redis, WatchError

from segstream.core.batch import Checkpoint, Position
from segstream.core.step import Outcome
from segstream.ports import Announced, Refused, Unavailable
from segstream.shell.redis_client import ERRORS, Client, ask, failure, primaries

T = TypeVar("T")
AT_ONCE = 100
"""States in one MSET, of the many in a transaction: packing a large one takes twice as long."""

_decode = msgspec.json.Decoder(Checkpoint).decode


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

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self.keys = Keys(namespace)

    def check(self) -> None:
        """Refused if this Redis may throw States away."""
        # Without the right to MULTI, Redis would still do one by one what was to be done at once.
        self._of_readers(self._transaction)
        servers = primaries(self._client)
        for server in servers:
            policy = _policy(server, alone=len(servers) == 1)
            if policy not in ("noeviction", None):
                raise Refused(
                    f"Redis has maxmemory-policy {policy}: it would drop States silently when "
                    "memory is short. Set maxmemory-policy noeviction"
                )

    def _transaction(self, redis: Redis) -> None:
        with redis.pipeline(transaction=True) as pipe:
            pipe.get(self.keys.layout)
            pipe.execute()

    def announced(self) -> Announced | None:
        found: Any = self._of_readers(lambda redis: redis.get(self.keys.layout))
        return None if found is None else announced_of(found)

    def announce(self, announced: Announced) -> None:
        body = msgspec.json.encode(announced._asdict())
        self._of_readers(lambda redis: redis.set(self.keys.layout, body))

    def checkpoint(self, partition: int) -> Checkpoint | None:
        meta = self.keys.meta(partition)
        found: Any = self._of(partition, lambda redis: redis.get(meta))
        return checkpoint_of(found)

    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        start = self.keys.minute(partition, "")
        keys = [f"{start}{minute}" for minute in minutes]

        def read(redis: Redis) -> Any:
            with redis.pipeline(transaction=True) as pipe:
                pipe.get(self.keys.meta(partition))
                pipe.sunion(keys)
                return pipe.execute()

        meta, customers = self._of(partition, read)
        return checkpoint_of(meta), [customer.decode() for customer in customers]

    def load(
        self, partition: int, customers: list[str]
    ) -> tuple[Checkpoint | None, list[bytes | None]]:
        start = self.keys.customer(partition, "")
        keys = [self.keys.meta(partition), *(start + customer for customer in customers)]
        found: Any = self._of(partition, lambda redis: redis.mget(keys))
        meta, *blobs = found
        return checkpoint_of(meta), blobs

    def write(self, partition: int, base: Position | None, outcome: Outcome) -> bool:
        return self._of(partition, lambda redis: self._write(redis, partition, base, outcome))

    def _write(self, redis: Redis, partition: int, base: Position | None, outcome: Outcome) -> bool:
        meta = self.keys.meta(partition)
        start = self.keys.customer(partition, "")
        pipe: Any
        with redis.pipeline(transaction=True) as pipe:
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

    def _of(self, partition: int, call: Callable[[Redis], T]) -> T:
        """On the server that holds the partition."""
        return ask(self._client, self.keys.meta(partition), call)

    def _of_readers(self, call: Callable[[Redis], T]) -> T:
        """On the server that holds what readers of the namespace need."""
        return ask(self._client, self.keys.layout, call)


def _policy(server: Redis, *, alone: bool) -> str | None:
    """None: one of several does not answer. Its own partitions wait for it, but no others."""
    try:
        return str(server.info("memory").get("maxmemory_policy"))
    except ERRORS as error:
        meant = failure(error)
        if isinstance(meant, Unavailable) and not alone:
            return None
        raise meant from error


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
