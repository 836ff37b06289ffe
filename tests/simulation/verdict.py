"""What must hold at the end of a schedule: all is as the core alone computes it from the log."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from segstream.core.batch import Checkpoint
from segstream.core.call import ModelControl
from segstream.core.forward import HOPS
from segstream.core.output import Output
from segstream.core.rename import renamed
from segstream.core.step import Partition
from segstream.testing.memory import columns
from tests.harness import Replay
from tests.simulation.parts import compiled
from tests.simulation.world import TOPIC, World


def replays(world: World) -> list[Replay]:
    """Each partition's log as it is in the end, through the core in one go."""
    where = world.setting
    models = {
        version: compiled(record.model_dump_json(by_alias=True))
        for version, record in world.topics.versions.items()
    }
    found = []
    for p in range(where.partitions):
        place = Partition(p, where.partitions, where.partitioner, TOPIC)
        start = Checkpoint(0, 0, world.log.published[p].layout)
        run = Replay(where.function, models, place, start)
        run.batch(columns(world.log.committed(p)), ticks=10**9)
        found.append(run)
    return found


def violations(world: World) -> list[str]:
    """Everything that is not as it must be, by invariant; [] = nothing."""
    runs = replays(world)
    wrong = []
    said = [o for o in world.log.outputs if o.topic != "events"]
    for p, run in enumerate(runs):
        store = world.store
        if store.states.get(p, {}) != run.states():
            wrong.append(f"States of {p} are not those of the log")
        if store.meta.get(p, run.checkpoint) != run.checkpoint:
            wrong.append(f"Checkpoint of {p}: {store.meta[p]} ≠ {run.checkpoint}")
        if _index(store.minutes.get(p, {})) != _index(run.store.minutes.get(0, {})):
            wrong.append(f"minute index of {p}")
        mine = [o for o in said if o.partition == p]
        wanted = [o for o in run.outputs if o.topic != "events"]
        wrong += _differences(p, mine, wanted)
        if world.log.published[p].position != run.checkpoint.position:
            wrong.append(f"W of {p}: {world.log.published[p].position} is not the log's end")
    wrong += _forwarded(world, runs)
    if world.plan.trained:
        wrong += _announced(world, runs)
        wrong += _renamed(world)
    return wrong


def _index(minutes: dict[int, set[str]]) -> dict[int, set[str]]:
    return {minute: names for minute, names in minutes.items() if names}


def _differences(p: int, mine: list[Output], wanted: list[Output]) -> Iterable[str]:
    if list(map(_told, mine)) == list(map(_told, wanted)):
        return
    found, right = Counter(map(_told, mine)), Counter(map(_told, wanted))
    twice, lost = (found - right).total(), (right - found).total()
    yield f"outputs of {p}: {lost} lost, {twice} too many or other than the log's"
    if not twice and not lost:
        yield f"outputs of {p}: out of order"


def _told(output: Output) -> tuple[Any, ...]:
    headers = tuple(output.headers)
    return output.topic, output.partition, output.key, output.value, headers


def _forwarded(world: World, runs: list[Replay]) -> Iterable[str]:
    """Each stray is in the log of its own partition once more, and only once."""
    wanted = Counter(_told(o)[1:] for run in runs for o in run.outputs if o.topic == "events")
    arrived = Counter(
        (p, r.key, r.value, tuple(r.headers or ()))
        for p in range(world.setting.partitions)
        for r in world.log.committed(p)
        if r.transaction is not None and any(name == HOPS for name, _ in r.headers or ())
    )
    if arrived != wanted:
        yield f"forwarded: {(wanted - arrived).total()} lost, {(arrived - wanted).total()} too many"


def _renamed(world: World) -> Iterable[str]:
    """The newest version has the names that people want."""
    versions, wishes = world.topics.versions, world.topics.renames
    if not versions:
        return
    newest = versions[max(versions)]
    if renamed(newest, wishes, world.setting.training.vocabulary, newest.at) is not None:
        yield f"version {newest.model} has not the names that people want"


def _announced(world: World, runs: list[Replay]) -> Iterable[str]:
    """Versions have numbers without gaps, and every partition has heard of each."""
    versions = sorted(world.topics.versions)
    if versions != list(range(1, len(versions) + 1)):
        yield f"versions {versions}"
    for p, run in enumerate(runs):
        decoded = run.function.decode(columns(world.log.committed(p)), run.partition)
        heard = {c.version for _, c in decoded.controls if isinstance(c, ModelControl)}
        if missing := set(versions) - heard:
            yield f"versions {sorted(missing)} were not announced to {p}"
