"""The most telling failpoints, on real processes and servers.

`python -m tests.faults.sweep` plays all of them, each often, on a longer stream.
"""

import random
from collections.abc import Callable
from pathlib import Path

from segstream.shell.local import Servers
from tests.faults.play import Play
from tests.faults.scene import scene
from tests.faults.sweep import played

KILLED = {
    "one": ["batch.produced", "batch.offsets", "claim.W"],
    "two": ["batch.sent", "batch.committed", "write.sent"],
    "three": ["stop.polled", "written", "start.fenced"],
    "trainer": ["version.offsets", "version.committed", "version.announced.1"],
}
FROZEN = ["batch.offsets", "batch.committed"]


def test_kills_between_any_two_effects_leave_no_trace(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Several processes die at about the same time; then two are frozen until a third has all."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    with scene(servers, tmp_path, unique("kills"), played(seed, 4), 6.0) as made:
        play = Play(made, tmp_path / "points", random.Random(seed), print)
        play.start("segmenter", "one", "two", "three")
        play.start("trainer", "trainer")
        made.stream.start()
        play.kills(KILLED, times=(1,))
        play.freezes(FROZEN, ["one", "two"])
        assert play.tally == play.wanted
        assert made.finish() == []
