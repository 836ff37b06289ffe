"""What a customer takes of a real server's memory, against what `segstream size` computes."""

import time
from pathlib import Path
from typing import Any

import pytest

from consumers import settings
from consumers.size import configured, measured
from segstream.core.batch import Checkpoint
from segstream.core.footprint import footprint
from segstream.core.hash import customer_hash
from segstream.core.step import Outcome
from segstream.ports import Write
from segstream.shell.redis import RedisStore
from tests.faults.traffic import CONFIG
from tests.redis_cluster import one_redis
from tests.servers import needs_local

CUSTOMERS = 5_000
LOW, HIGH = 0.85, 1.05
"""Of what is computed: the package's server has another allocator than most, which wastes less."""

#: Seven minutes in a period, so that each holds 700 customers, as in a partition of a million.
DEFINITIONS = {
    "retail": 'preset = "retail"',
    "media": 'preset = "media"',
    "traffic": "\n".join(x for x in CONFIG.splitlines() if not x.startswith("tick.period")),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_customer_takes_what_is_computed(name: str, tmp_path: Path) -> None:
    needs_local()
    file = tmp_path / "segstream.toml"
    file.write_text(DEFINITIONS[name])
    here = settings.load({"SEGSTREAM_CONFIG": str(file)})
    ids = [f"{number:036d}" for number in range(CUSTOMERS)]
    blobs = [bytes(configured(here).state_bytes)] * CUSTOMERS
    indexed = [(customer_hash(customer) % 7, customer) for customer in ids]
    states = dict(zip(ids, blobs, strict=True))
    whole = Outcome(Checkpoint(1, 0, ""), states, [], indexed, [], [], {})
    with one_redis(tmp_path / "redis") as client:
        before = used(client)
        assert RedisStore(client, here.namespace).write([Write(3, None, whole)])
        taken = (used(client) - before) / CUSTOMERS
        allocator = client.info("memory")["mem_allocator"]
    computed = footprint(configured(here), measured(), len(ids[0]))
    print(f"{taken:.0f} bytes of {computed.bytes} with {allocator}: {computed}")
    assert LOW * computed.bytes <= taken <= HIGH * computed.bytes


def used(client: Any) -> int:
    """Once buffers are free again, and tables are moved."""
    time.sleep(0.5)
    return int(client.info("memory")["used_memory"])
