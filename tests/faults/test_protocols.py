"""The group protocol of KIP-848: whatever happens to its members, all is as in the classic one."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import ConsumerGroupType

from segstream.shell.local import Servers
from tests.faults.scene import Scene, scene
from tests.integration.deployment import wait

SEED = 848
SESSION = 6.0


def shares(play: Scene, *slots: str) -> None:
    """Wait until all partitions are divided among these."""
    at = play.at

    def shared() -> bool:
        members = at.members()
        held = sorted(p for own in members.values() for p in own)
        return members.keys() == set(slots) and held == [*at.partitions] and all(members.values())

    wait(shared, f"{slots} share the partitions", 40)


def test_members_of_kip_848_join_die_freeze_and_leave(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    protocol, name = "consumer", unique("kip-848")
    with scene(servers, tmp_path, name, SEED, SEGSTREAM_KAFKA_GROUP_PROTOCOL=protocol) as play:
        at, crew = play.at, play.crew
        for process, slot in (
            ("segmenter", "one"), ("segmenter", "two"), ("trainer", "a"), ("trainer", "b"),
        ):  # fmt: skip
            crew.start(process, slot)
        shares(play, "one", "two")
        ours = {at.settings.group("segmenter"), at.settings.group("trainer")}

        def known() -> bool:
            groups = at._admin.list_consumer_groups(types={ConsumerGroupType.CONSUMER})
            return ours <= {group.group_id for group in groups.result(10).valid}

        wait(known, "both groups have the new protocol")
        play.stream.start()
        wait(lambda: at.end("segment-models") > 0, "a first version")
        crew.start("segmenter", "three")
        shares(play, "one", "two", "three")
        crew.signal("one", signal.SIGKILL)
        crew.signal("two", signal.SIGSTOP)
        crew.signal("a", signal.SIGKILL)
        time.sleep(SESSION)
        shares(play, "one", "three")
        crew.signal("two", signal.SIGCONT)
        shares(play, "one", "two", "three")
        crew.release("three")
        assert at.stop("three")[0] == 0
        shares(play, "one", "two")
        versions = at.end("segment-models")
        wait(lambda: at.end("segment-models") > versions, "a trainer goes on")
        assert play.finish() == []
