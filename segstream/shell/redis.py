"""Store on Redis: all of a partition in one hash slot. See `schemas/redis-state.md`.

<ns>:{p}:meta          Checkpoint, JSON          <ns>:{p}:m:<minute>   set of customers
<ns>:{p}:c:<customer>  State, packed bytes       <ns>:layout           for readers, JSON
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
from redis import Redis, RedisCluster, WatchError

from segstream.core.batch import Checkpoint
from segstream.core.step import Outcome
from segstream.ports import Announced, Loaded, Refused, Unavailable, Write
from segstream.shell.redis_client import ERRORS, Client, ask, failure, is_packed, primaries

T = TypeVar("T")
AT_ONCE = 100
"""States in one MSET where the library packs it: it takes twice as long to pack a large one."""

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
        # The slots of a cluster are on different nodes.
        self._one_server = not isinstance(client, RedisCluster)
        self._at_once = sys.maxsize if is_packed(client) else AT_ONCE
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

    def load(self, wanted: Mapping[int, list[str]]) -> dict[int, Loaded]:
        parts = [wanted] if self._one_server else [{p: names} for p, names in wanted.items()]
        found: dict[int, Loaded] = {}
        for part in filter(None, parts):
            found |= self._of(next(iter(part)), partial(self._load, part))
        return found

    def _load(self, wanted: Mapping[int, list[str]], redis: Redis) -> dict[int, Loaded]:
        with redis.pipeline(transaction=False) as pipe:
            for partition, customers in wanted.items():
                start = self.keys.customer(partition, "")
                pipe.mget([self.keys.meta(partition), *map(start.__add__, customers)])
            replies: list[Any] = pipe.execute()
        return {
            partition: (checkpoint_of(meta), blobs)
            for partition, (meta, *blobs) in zip(wanted, replies, strict=True)
        }

    def write(self, writes: Sequence[Write]) -> set[int]:
        # Of several, one that stands elsewhere is nothing to the others: then each alone.
        if len(writes) > 1 and self._one_server and self._written(writes):
            return {write.partition for write in writes}
        return {write.partition for write in writes if self._written([write])}

    def _written(self, writes: Sequence[Write]) -> bool:
        return self._of(writes[0].partition, partial(self._write, writes))

    def _write(self, writes: Sequence[Write], redis: Redis) -> bool:
        """All of it, in one transaction; False: nothing."""
        metas = [self.keys.meta(write.partition) for write in writes]
        pipe: Any
        with redis.pipeline(transaction=True) as pipe:
            pipe.watch(*metas)
            there = map(checkpoint_of, pipe.mget(metas))
            pipe.multi()
            for write, checkpoint in zip(writes, there, strict=True):
                stands = None if checkpoint is None else checkpoint.position
                if stands == write.outcome.checkpoint.position:
                    continue  # a reply was lost: this very write has happened
                if stands != write.base:
                    return False
                self._put(pipe, write.partition, write.outcome)
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    def _put(self, pipe: Any, partition: int, outcome: Outcome) -> None:
        start = self.keys.customer(partition, "")
        keys = [self.keys.meta(partition), *map(start.__add__, outcome.writes)]
        values = [msgspec.json.encode(outcome.checkpoint), *outcome.writes.values()]
        for first in range(0, len(keys), self._at_once):
            part = slice(first, first + self._at_once)
            pairs: list[str | bytes] = [b""] * (2 * len(keys[part]))
            pairs[::2], pairs[1::2] = keys[part], values[part]
            pipe.execute_command("MSET", *pairs)  # `mset` would make a dict of them and undo it
        if outcome.deletes:
            pipe.delete(*(start + customer for customer in outcome.deletes))
        for minute, customer in outcome.unindexed:
            pipe.srem(self.keys.minute(partition, minute), customer)
        for minute, customer in outcome.indexed:
            pipe.sadd(self.keys.minute(partition, minute), customer)

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
