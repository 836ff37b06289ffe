"""What the store asks of a real server: few round trips, and nothing comes in between."""

from collections.abc import Callable, Iterator

import pytest

from segstream.core.batch import Checkpoint, Position
from segstream.core.step import Outcome
from segstream.ports import Unavailable, Write
from segstream.shell.local import Servers
from segstream.shell.redis import RedisStore
from segstream.shell.redis_client import Client, connect

PARTITIONS = 4


def write(partition: int, base: int | None, offset: int, text: bytes) -> Write:
    """Of one customer's State."""
    empty = Outcome(Checkpoint(offset, 0, "layout"), {"u": text}, [], [], [], [], {})
    return Write(partition, None if base is None else Position(base, 0), empty)


@pytest.fixture
def client(servers: Servers) -> Iterator[Client]:
    made = connect(servers.redis_url)
    yield made
    made.close()


@pytest.fixture
def name(unique: Callable[[str], str]) -> str:
    return unique("store")


def calls(client: Client) -> dict[str, int]:
    """How often each command was called so far."""
    found = client.info("commandstats").items()
    return {command.removeprefix("cmdstat_"): stats["calls"] for command, stats in found}


def test_the_partitions_of_a_turn_are_one_transaction(client: Client, name: str) -> None:
    store = RedisStore(client, name)
    before = calls(client)
    everything = [write(p, None, 1, b"first") for p in range(PARTITIONS)]
    assert store.write(everything) == set(range(PARTITIONS))
    after = calls(client)
    risen = {c: after.get(c, 0) - before.get(c, 0) for c in ("watch", "mget", "multi", "exec")}
    assert risen == {"watch": 1, "mget": 1, "multi": 1, "exec": 1}
    assert list(store.load({p: ["u"] for p in range(PARTITIONS)}).values()) == [
        (w.outcome.checkpoint, [b"first"]) for w in everything
    ]


def test_an_error_names_no_customer(client: Client, name: str) -> None:
    """The library adds the command to the error of one of several, and so the keys."""
    store = RedisStore(client, name)
    client.set(store.keys.minute(0, 7), "of another type")
    one = write(0, None, 1, b"first")
    with pytest.raises(Unavailable, match="WRONGTYPE") as raised:
        store.write([one._replace(outcome=one.outcome._replace(indexed=[(7, "secret-person")]))])
    assert "secret" not in str(raised.value)


def test_who_writes_one_of_them_in_between_holds_up_no_other(
    client: Client, name: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the positions and EXEC: it fails, and each is tried alone."""
    store, put = RedisStore(client, name), RedisStore._put
    assert store.write([write(p, None, 1, b"first") for p in range(PARTITIONS)])
    with connect(servers.redis_url) as other:
        rival = [write(2, 1, 7, b"rival")]

        def and_the_rival(self: RedisStore, *arguments: object) -> None:
            put(self, *arguments)  # type: ignore[arg-type]
            if rival and self is store:
                assert RedisStore(other, name).write([rival.pop()]) == {2}

        monkeypatch.setattr(RedisStore, "_put", and_the_rival)
        second = [write(p, 1, 2, b"second") for p in range(PARTITIONS)]
        assert store.write(second) == {0, 1, 3}
    assert not rival
    found = store.load({p: ["u"] for p in range(PARTITIONS)})
    assert [blobs for _, blobs in found.values()] == [
        [b"second"], [b"second"], [b"rival"], [b"second"],
    ]  # fmt: skip
    assert found[2][0] is not None
    assert found[2][0].offset == 7
