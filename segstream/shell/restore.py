"""Looks at what a loss has left, and brings partitions back where workers cannot do it alone.

Nothing here runs beside workers: W can be set only while their group is empty, and a partition
without `meta` is refused by workers until the last write of a new start.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import msgspec
from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError
from redis import Redis

from segstream.core.audit import Kept, Place
from segstream.core.batch import Checkpoint
from segstream.core.recompute import Recomputation
from segstream.core.record import Membership
from segstream.core.restore import Found, Renewed, renewed
from segstream.core.step import Function, Partition
from segstream.ports import Models, Published, Refused, Unavailable
from segstream.shell.kafka import headers_of
from segstream.shell.reading import Reading, bounds
from segstream.shell.recompute import Progress, Recomputer
from segstream.shell.redis import Keys, checkpoint_of
from segstream.shell.redis_client import Client, ask, values
from segstream.shell.transaction import SECONDS, Settings, failure

NOBODY = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
KEYS = 5_000
"""Keys of one command."""
TAIL = 10_000
"""Offsets of the end of `segment-changes` that are looked at."""


def look(
    kafka: Settings,
    redis: Client,
    keys: Keys,
    topic: str,
    published: Mapping[int, Published | None],
) -> list[Found]:
    """Where all partitions stand. Unavailable if servers do not answer."""
    there = values(redis, [keys.meta(p) for p in published])
    stands = dict(zip(published, map(checkpoint_of, there), strict=True))
    ends = bounds(AdminClient(dict(kafka)), topic, list(published))
    return [
        Found(
            p,
            stands[p],
            None if w is None else w.position,
            0 if w is None else w.origin,
            frozenset(part.layout for part in (stands[p], w) if part is not None),
            *ends[p],
        )
        for p, w in published.items()
    ]


def require_nobody(kafka: Settings, group: str) -> None:
    """Refused while segmenters are at work."""
    # A list, because nobody describes a group that was deleted.
    try:
        listing = AdminClient(dict(kafka)).list_consumer_groups(request_timeout=SECONDS).result()
    except KafkaException as error:
        raise failure(f"group {group}", error.args[0]) from error
    states = {found.group_id: found.state for found in listing.valid}
    if states.get(group, NOBODY[0]) not in NOBODY:
        raise Refused(
            f"segmenters of group {group} are at work: stop them first. One that was killed "
            "counts until its session.timeout.ms has passed"
        )


def beyond(kafka: Settings, topic: str, found: Found) -> int:
    """How many of the last changes are beyond N: they would be published a second time."""
    position = found.stands
    (start, end) = bounds(AdminClient(dict(kafka)), topic, [found.partition])[found.partition]
    with closing(Reading(kafka, topic, found.partition, max(start, end - TAIL))) as tail:
        places = [_place(message, found.partition) for message in tail.to(end)]
    return sum(place.offset >= 0 and place.beyond(position) for place in places)


def appended(kafka: Settings, topic: str, partition: int) -> int | None:
    """When the first record that is kept was appended, ms; None: there is none."""
    with closing(Reading(kafka, topic, partition)) as log:
        first = log.peek(log.bounds()[1])
        return None if first is None else int(first.timestamp()[1])


def _place(message: Any, partition: int) -> Place:
    return Kept(message.key(), message.value(), headers_of(message) or ()).place(partition)


# -- an approximate new start ----------------------------------------------------------


def rebuild(
    kafka: Settings,
    topics: tuple[str, str],
    function: Function,
    models: Models,
    where: Partition,
    found: Found,
    layout: str,
    progress: Progress,
) -> Renewed:
    """Compute what the log still holds up to W. `topics`: events, memberships.

    Holds the States of the partition. Unavailable if Kafka does not answer.
    """
    events, memberships = topics
    published = _memberships(kafka, memberships, where.number)
    again = Recomputation(function, where, Checkpoint(found.start, 0, layout))
    models.refresh()
    with closing(Reading(kafka, events, where.number, found.start)) as log:
        first = log.peek(found.end)
        for _ in Recomputer(again, log, models, progress).before(found.renewed.offset):
            pass  # it was published, or is gone
    clock = found.renewed.clock
    latest = clock if first is None else min(clock, int(first.timestamp()[1]))
    panel = max(1, function.definition.panel.size // where.partitions)
    return renewed(again, published, found, latest, panel)


def _memberships(kafka: Settings, topic: str, partition: int) -> dict[str, Membership]:
    """The last one of each customer that is in a segment."""
    found: dict[str, bytes] = {}
    with closing(Reading(kafka, topic, partition)) as reading:
        for message in reading.to_end():
            customer = (message.key() or b"").decode(errors="replace")
            if message.value() is None:
                found.pop(customer, None)
            else:
                found[customer] = message.value()
    try:
        return {name: Membership.model_validate_json(value) for name, value in found.items()}
    except ValidationError as error:
        raise Refused(
            f"{topic} has a membership on partition {partition} that segstream did not write: "
            f"{error.errors(include_url=False)[0]['msg']}. Produce a null under its key"
        ) from error


def replace(redis: Client, keys: Keys, partition: int, new: Renewed) -> None:
    """Delete what Redis holds of the partition, and write it anew: `meta` goes first, and comes
    last, so that a worker refuses what is half done. Repeat it after Unavailable."""
    try:
        ask(redis, keys.meta(partition), lambda server: _replace(server, keys, partition, new))
    except Unavailable as error:
        raise Unavailable(f"{error}. Run it again: nothing else is harmed") from error


def _replace(redis: Redis, keys: Keys, partition: int, new: Renewed) -> None:
    redis.delete(keys.meta(partition))
    for old in _parts(redis.scan_iter(keys.all(partition), count=KEYS)):
        redis.unlink(*old)
    start = keys.customer(partition, "")
    for states in _parts(new.states.items()):
        redis.mset({start + customer: blob for customer, blob in states})
    for minutes in _parts(new.minutes.items()):
        with redis.pipeline(transaction=False) as pipe:
            for minute, customers in minutes:
                pipe.sadd(keys.minute(partition, minute), *customers)
            pipe.execute()
    redis.set(keys.meta(partition), msgspec.json.encode(new.checkpoint))


def _parts(values: Iterable[Any]) -> Iterator[Sequence[Any]]:
    iterator = iter(values)
    while part := list(islice(iterator, KEYS)):
        yield part
