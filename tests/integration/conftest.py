"""Servers of several nodes, one set per module."""

from collections.abc import Iterator

import pytest

from tests.redis_cluster import Cluster, redis_cluster
from tests.servers import needs_local


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries, and a replica of the first."""
    needs_local()
    with redis_cluster(tmp_path_factory.mktemp("redis") / "cluster", 3, 1) as made:
        yield made
