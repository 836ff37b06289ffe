"""Guards that are switched off in real processes on real servers are missed at once.

Frozen at random, a worker hardly ever meets another one where it matters; so it is frozen exactly
where the guard counts, until another one has taken over and gone on.
"""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from signal import SIGCONT

import pytest

from segstream.shell.local import Servers
from tests.faults.fuse import Armed
from tests.faults.play import Play
from tests.faults.recovery import PER_SECOND, probes
from tests.faults.scene import scene, unlike_once
from tests.faults.unguarded import GUARDS, UNGUARDED
from tests.integration.deployment import wait

PLACES = {
    "membership": "batch.produced",
    "stable reading": "batch.offsets",
    "beyond W": "batch.committed",
}


def frozen_and_replaced(servers: Servers, home: Path, name: str, guard: str) -> list[str]:
    """What was published twice or out of order."""
    home.mkdir()
    with scene(servers, home, name, probes(4), PER_SECOND) as made:
        play = Play(made, home / "points", random.Random(0), print)
        play.start("segmenter", "one", "two", **({UNGUARDED: guard} if guard else {}))
        made.at.works("one", "two")
        owned = made.at.members()["one"]
        made.stream.start()
        play.happens("one", Armed(PLACES[guard or "membership"], "freeze", skip=3))
        stood = {p: made.at.checkpoint(p).offset for p in owned}
        wait(lambda: made.at.members().keys() == {"two"}, "the other one takes over", 30)
        wait(lambda: all(made.at.checkpoint(p).offset > stood[p] for p in owned), "it goes on")
        made.crew.signal("one", SIGCONT)
        made.at.works("one", "two")
        made.settle()
        made.crew.stop()
        return unlike_once(made.at)


@pytest.fixture(scope="module")
def found(
    servers: Servers, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, list[str]]]:
    """All guards at the same time, and none switched off, under the name of ""."""
    home = tmp_path_factory.mktemp("unguarded")
    with ThreadPoolExecutor(4) as threads:
        futures = {
            guard: threads.submit(
                frozen_and_replaced, servers, home / (guard or "all"), unique("unguarded"), guard
            )
            for guard in ["", *PLACES]
        }
        yield {guard: future.result() for guard, future in futures.items()}


def test_every_guard_has_its_place() -> None:
    assert PLACES.keys() == GUARDS.keys()


def test_with_all_guards_nothing_is_published_twice(found: dict[str, list[str]]) -> None:
    assert found[""] == []


@pytest.mark.parametrize("guard", PLACES)
def test_a_guard_that_is_gone_is_missed(found: dict[str, list[str]], guard: str) -> None:
    assert any("published twice" in text for text in found[guard]), found[guard]
