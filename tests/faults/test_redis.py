"""Redis goes back in time, is emptied, dies and swallows replies, while two segmenters work.

Each time the States must end byte-equal to what the oracle says, and no change may be missing,
repeated or out of order.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segstream.core.batch import Position
from segstream.shell.local import Servers
from tests.faults import backup
from tests.faults.proxy import HOST, Proxy
from tests.faults.scene import Scene, scene
from tests.integration.deployment import Deployment, log_of, wait

SEED = 4
KILLS = 4
WORDS = (b"EXEC", b"MGET", b"WATCH", b"SUNION", b":meta")
"""In requests of: the write, the load, before the write, the load of ticks, any claim."""


@pytest.fixture
def proxy(servers: Servers) -> Iterator[Proxy]:
    port = int(servers.redis_url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as running:
        yield running


@pytest.fixture
def play(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path, proxy: Proxy
) -> Iterator[Scene]:
    """Two segmenters and a trainer under load, with States and a model already."""
    print(f"seed {SEED}")
    url = f"redis://{HOST}:{proxy.port}/0"
    with scene(servers, tmp_path, unique("redis"), SEED, per_second=5) as made:
        for slot in ("one", "two"):
            made.crew.start("segmenter", slot, SEGSTREAM_REDIS_URL=url)
        made.crew.start("trainer", "trainer")
        made.at.works("one", "two")
        made.stream.start()
        wait(lambda: made.at.end("segment-models") > 0, "a first version")
        yield made


def stands(at: Deployment) -> dict[int, Position]:
    return {p: at.checkpoint(p).position for p in at.partitions}


def goes_on(play: Scene, beats: int = 12) -> None:
    """Wait until W has moved everywhere, for at least so many beats."""
    at, sent = play.at, play.stream.sent
    before = {p: at.published(p) for p in at.partitions}
    wait(lambda: all(at.published(p) > before[p] for p in at.partitions), "W moves everywhere")
    wait(lambda: play.stream.sent > sent + 40 * beats, "records are sent")


def reclaimed(play: Scene) -> int:
    return sum(log_of(s).count("claimed again") for s in play.at.running.values())


def test_restored_to_an_older_copy(servers: Servers, play: Scene, tmp_path: Path) -> None:
    kept = stands(play.at)
    backup.keep(servers, tmp_path / "copy")
    goes_on(play)
    assert all(play.at.published(p) > kept[p] for p in play.at.partitions)
    backup.bring_back(servers, tmp_path / "copy")
    goes_on(play)
    assert play.finish() == []
    assert reclaimed(play) >= len(play.at.partitions)


def test_wiped_with_the_log_complete(play: Scene) -> None:
    goes_on(play)
    play.at.redis.flushall()
    goes_on(play)
    assert play.finish() == []
    assert reclaimed(play) >= len(play.at.partitions)


def test_killed_and_started_again(servers: Servers, play: Scene) -> None:
    """Everything is synced to disk once per second: each time the last writes may be gone."""
    for _ in range(KILLS):
        servers.kill_redis()
        servers.start_redis()
        goes_on(play, beats=3)
    assert play.finish() == []


def test_replies_are_lost(play: Scene, proxy: Proxy) -> None:
    """What was asked for is done, and nobody hears of it."""
    for word in 2 * WORDS:
        proxy.lose(word)
        wait(lambda word=word: word in proxy.lost, "a reply is lost")  # type: ignore[misc]
        proxy.lost.remove(word)
    goes_on(play)
    assert play.finish() == []
    assert reclaimed(play) >= len(WORDS)
