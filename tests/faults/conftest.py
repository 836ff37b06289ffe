"""Servers of their own, for tests that kill servers."""

from collections.abc import Iterator

import pytest

from segstream.shell.local import Servers, local_servers
from tests.servers import needs_local

KIP_848 = {
    f"group.consumer.{name}": milliseconds
    for name, milliseconds in {
        "min.session.timeout.ms": "6000",
        "session.timeout.ms": "6000",
        "min.heartbeat.interval.ms": "1000",
        "heartbeat.interval.ms": "1000",
    }.items()
}
"""Sessions as short as those of the classic protocol."""


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    needs_local()
    with local_servers(tmp_path_factory.mktemp("servers"), kafka_config=KIP_848) as running:
        yield running
