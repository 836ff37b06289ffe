"""What `segstream size` reckons with and nothing else measures: `python -m benchmarks.size`.

Memory of a customer in Redis, customers per batch, bytes of records. It prints the values of
segstream/measured.toml; `make bench` has those of CPU time. The server is a redis-server or
valkey-server of the PATH, else that of segstream[local]: the bytes depend on its allocator, which
is printed. Some seconds.
"""

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from redis import Redis, RedisError

from benchmarks.settled import sample
from benchmarks.traffic import FLAT, HOT, people
from consumers.settings import load
from consumers.size import configured
from segstream.core.footprint import allocated
from segstream.core.output import change_headers, ms_text, source_header
from segstream.core.step import Function
from segstream.shell.local.servers import _valkey

BATCH = 5_000
CUSTOMERS = 70_000
MINUTES = 100  # with 700 customers each, as in a partition of a million
ID = "customer-%027d"  # 36 bytes, like a UUID
EXAMPLES = Path(__file__).parents[1] / "schemas" / "examples"


@contextmanager
def server() -> Iterator[Any]:
    """An empty one, of its own, without a log."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server") or _valkey()
    with tempfile.TemporaryDirectory() as home:
        path = f"{home}/socket"
        command = [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", home]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            client = Redis(unix_socket_path=path)
            try:
                while not _answers(client):
                    time.sleep(0.05)
                yield client
            finally:
                process.kill()


def _answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def memory(client: Any, state: int) -> tuple[float, float]:
    """Bytes that a key takes besides key and value, and a customer in its minute besides its id."""
    ids = [ID % number for number in range(CUSTOMERS)]
    keys = [f"segstream:{{999}}:c:{name}" for name in ids]

    def used() -> int:
        time.sleep(0.5)  # tables that grow are moved bit by bit
        return int(client.info("memory")["used_memory"])

    empty = used()
    for first in range(0, CUSTOMERS, 1_000):
        client.mset(dict.fromkeys(keys[first : first + 1_000], bytes(state)))
    whole = used()
    for minute in range(MINUTES):
        client.sadd(f"segstream:{{999}}:m:{minute}", *ids[minute::MINUTES])
    value, key = allocated(state + 6), allocated(len(keys[0]) + 4)
    entry = (whole - empty) / CUSTOMERS - value - key
    return entry, (used() - whole) / CUSTOMERS - allocated(len(ids[0]) + 2)


def states() -> tuple[float, float, float]:
    """Of settled customers: bytes of a packed head; of each byte of the rings, on average and at
    most."""
    layout = Function(load({}).definition).layout
    settled = sample(FLAT).states
    whole = np.array(list(map(len, layout.pack(settled))))
    bare = settled.copy()
    for name in layout.blocks.keys() & set(layout.dtype.names or ()):
        bare[name] = 0
    rings = layout.dtype.itemsize - layout.head_bytes
    heads = np.array(list(map(len, layout.pack(bare)))) - rings / 64  # without their map
    shares = (whole - heads) / rings
    return float(heads.mean()), float(shares.mean()), float(shares.max())


def states_per_event(customers: int, zipf: float) -> float:
    """Customers among BATCH events, per event."""
    rng = np.random.default_rng(1)
    who = people(customers, zipf)
    return float(np.mean([len(np.unique(who.draw(BATCH, rng))) for _ in range(20)])) / BATCH


def record_bytes(kind: str, *, headers: bool) -> int:
    """Key, value and headers of the examples of a contract, on average."""
    sizes = []
    for path in (EXAMPLES / kind / "valid").glob("*.json"):
        body = json.loads(path.read_text())
        size = len(json.dumps(body, separators=(",", ":"))) + len(body["customer"])
        if headers:
            customer = body["customer"].encode()
            source = source_header("customer-events")
            of = change_headers(b"123-123456789", source, customer, ms_text(0))
            size += sum(len(name) + len(value or b"") for name, value in of)
        sizes.append(size)
    return round(sum(sizes) / len(sizes))


def main() -> None:
    head, share, most = states()
    print(f"[state]\nhead_bytes = {head:.0f}\nring_share = {share:.3f}  # at most {most:.2f}")
    state = configured(load({})).state_bytes
    with server() as client:
        info = client.info()
        name = info.get("server_name", "redis")
        version = info.get("valkey_version", info["redis_version"])
        entry, member = memory(client, state)
        print(f"# {name} {version}, {info['mem_allocator']}, State of {state} bytes")
    print(f"[redis]\nentry_bytes = {entry:.1f}\nmember_bytes = {member:.1f}")
    flat, hot = states_per_event(1_000_000, FLAT), states_per_event(100_000, HOT)
    print(f"[states_per_event]\nflat = {flat:.2f}\nhot = {hot:.2f}")
    change, membership = (record_bytes(k, headers=k == "change") for k in ("change", "membership"))
    print(f"[records]\nchange_bytes = {change}\nmembership_bytes = {membership}")


if __name__ == "__main__":
    main()
