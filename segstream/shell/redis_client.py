"""Where Redis is, and how it is asked: one server, or the nodes of a cluster.

`redis://` and `rediss://` (TLS) lead to one server, `redis+cluster://` and `rediss+cluster://` to a
cluster, of which several nodes may be named. Nothing that writes is ever repeated here: only the
worker knows what is safe. Why so: docs/decisions/0015-redis-cluster.md.
"""

import os
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

from redis import AuthenticationError, Redis, RedisCluster, RedisError
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import HiredisRespSerializer
from redis.exceptions import (
    AskError,
    AuthorizationError,
    MovedError,
    NoPermissionError,
    RedisClusterException,
)
from redis.retry import Retry

from segstream.core import compiled
from segstream.ports import Refused, Unavailable

T = TypeVar("T")
Client = Redis | RedisCluster
ERRORS = (RedisError, RedisClusterException)
"""Whatever the library raises; the second is not one of the first."""

SECONDS = 5.0
CLUSTER = "+cluster"
PORT = 6379

FILES = {
    "ssl_ca_certs": "SEGSTREAM_REDIS_CA",
    "ssl_certfile": "SEGSTREAM_REDIS_CERTIFICATE",
    "ssl_keyfile": "SEGSTREAM_REDIS_KEY",
}
"""What a URL says of files, and where it comes from."""


class Packer:
    """Commands as Redis reads them, in a tenth of the time that the library takes.

    For one server only: the library does not hand it on to the nodes of a cluster.
    """

    def __init__(self, functions: Any) -> None:
        self._command = functions.command
        self._other = HiredisRespSerializer()  # numbers, and commands of several words

    def pack(self, *args: Any) -> list[bytes]:
        """A command, in one piece."""
        packed = self._command(args)
        return self._other.pack(*args) if packed is None else [packed]


def connect(url: str, seconds: float = SECONDS, retries: int = 0) -> Client:
    """A client that never repeats a command by itself, unless it is for reading: `retries`.

    With `rediss` it looks at the server's certificate and name, whatever the client's version.
    Of a cluster it asks for the map of slots at once: Unavailable if no node answers.
    """
    for name, path in parse_qsl(urlsplit(url).query):
        if name in FILES and not os.access(path, os.R_OK):
            raise Refused(f"Redis cannot be asked: the file {path} ({FILES[name]}) cannot be read")
    options: dict[str, Any] = {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), retries),
        "client_name": "segstream",
    }
    if url.startswith("rediss"):
        options |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
    if is_cluster(url):
        return _cluster(url, options)
    if compiled.functions is not None:
        options["command_packer"] = Packer(compiled.functions)
    return Redis.from_url(url, **options)


def is_packed(client: Client) -> bool:
    """Whether the commands for it are packed by a Packer."""
    return compiled.functions is not None and not isinstance(client, RedisCluster)


def is_cluster(url: str) -> bool:
    """Whether a URL leads to one."""
    return url.partition("://")[0].endswith(CLUSTER)


def _cluster(url: str, options: dict[str, Any]) -> RedisCluster:
    parts = urlsplit(url.replace(CLUSTER, "", 1))
    if parts.path not in ("", "/", "/0"):
        raise Refused(
            f"Redis Cluster has only database 0, not {parts.path[1:]}: end the address in "
            "SEGSTREAM_REDIS_URL with /0, or with nothing"
        )
    user, at, places = parts.netloc.rpartition("@")
    first, *others = places.split(",")
    node: Any = ClusterNode  # without types, like some of the methods below
    url = parts._replace(netloc=f"{user}{at}{first}", path="").geturl()
    try:
        nodes = [node(*_place(other)) for other in others]
        return RedisCluster.from_url(url, startup_nodes=nodes, **options)
    except ERRORS as error:
        raise failure(error) from error
    except ValueError as error:
        why = f"SEGSTREAM_REDIS_URL names a node that is no address: {error}"
        raise Refused(f"Redis cannot be asked: {why}") from error


def _place(text: str) -> tuple[str, int]:
    """Host and port."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or "localhost", parts.port or PORT


def ask(client: Client, key: str, call: Callable[[Redis], T]) -> T:
    """What `call` does on the one server that holds a key; never twice.

    A cluster's map of slots is read again after each failure, so that whoever asks again, asks
    where the slot is by then. Unavailable or Refused, as `failure` says.
    """
    try:
        return call(_holder(client, key))
    except ERRORS as error:
        if isinstance(client, RedisCluster):
            _look_again(client, error)
            if isinstance(error, AskError):  # or MOVED: nothing was done, and it may be soon
                raise Unavailable(f"Redis moves slots: {error}") from error
        raise failure(error) from error


def _holder(client: Client, key: str) -> Redis:
    if isinstance(client, RedisCluster):
        cluster: Any = client
        node = cluster.get_node_from_key(key)
        return client.get_redis_connection(node)
    return client


def _look_again(client: RedisCluster, error: Exception) -> None:
    manager = client.nodes_manager
    # Those that were named at first, too: all others may have got new addresses.
    named = {node.name: node for node in client.startup_nodes}
    manager.startup_nodes = {**named, **manager.startup_nodes}
    with suppress(*ERRORS):
        manager.initialize()
    if isinstance(error, MovedError):  # whoever said so knows it better than who was asked now
        manager.move_slot(error)


def values(client: Client, keys: Sequence[str]) -> list[bytes | None]:
    """Of keys on whatever servers, each as of an instant of its own. Unavailable or Refused."""
    try:
        with client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(key)
            found: list[bytes | None] = pipe.execute()
            return found
    except ERRORS as error:
        raise failure(error) from error


def primaries(client: Client) -> list[Redis]:
    """All servers that may be written to."""
    if isinstance(client, RedisCluster):
        cluster: Any = client
        return [client.get_redis_connection(node) for node in cluster.get_primaries()]
    return [client]


def failure(raised: BaseException) -> Exception:
    """What an error of Redis means for a process: Unavailable passes, Refused does not."""
    error = _first(raised)
    # Inside of transactions what is not allowed comes as another error; and of several commands
    # the library names the one that failed, with its keys, which are customers.
    why = str(error).rpartition(" of pipeline caused error: ")[2].rstrip(".")
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
    if isinstance(error, MovedError):
        return Refused(
            f"Redis is a cluster, and was asked as if it were one server: MOVED {why}. Begin "
            "SEGSTREAM_REDIS_URL with redis+cluster:// (rediss+cluster:// with TLS)"
        )
    if "cluster support disabled" in why:
        return Refused(
            f"Redis is one server, and was asked as if it were a cluster: {why}. Begin "
            "SEGSTREAM_REDIS_URL with redis:// (rediss:// with TLS)"
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
    return Unavailable(f"Redis: {why}")


def _first(error: BaseException) -> BaseException:
    """What a node said: the library wraps it when it asks for the map of slots."""
    while isinstance(error, RedisClusterException) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return error
