"""Copies of Valkey's data while it runs, and Valkey with the data of such a copy."""

import shutil
from pathlib import Path
from typing import Any

from redis import Redis

from segstream.shell.local import Servers
from tests.integration.deployment import wait


def keep(servers: Servers, copy: Path) -> None:
    """As Redis documents it: copy the append-only files while they are not rewritten."""
    with Redis.from_url(servers.redis_url) as redis:
        redis.config_set("auto-aof-rewrite-percentage", 0)
        try:
            wait(lambda: not persistence(redis)["aof_rewrite_in_progress"], "the rewrite ends")
            shutil.copytree(home(servers), copy)
        finally:
            redis.config_set("auto-aof-rewrite-percentage", 100)


def bring_back(servers: Servers, copy: Path) -> None:
    """Kill Valkey, and start it with the data of the copy."""
    servers.kill_redis()
    shutil.rmtree(home(servers))
    shutil.copytree(copy, home(servers))
    servers.start_redis()


def home(servers: Servers) -> Path:
    return servers.directory / "valkey" / "appendonlydir"


def persistence(redis: Redis) -> dict[str, Any]:
    found: Any = redis.info("persistence")
    return dict(found)
