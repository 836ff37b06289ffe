"""What the segmenter needs from outside, as Protocols: no Kafka, no Redis, no wall clock in here.

`segstream/shell` has the real parts, `segstream/testing` public in-memory ones.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from segstream.core.batch import Checkpoint, Position
from segstream.core.event import Records
from segstream.core.hash import Partitioner
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.step import Outcome


class Refused(Exception):
    """The worker must not go on; the message says what happened and what to do."""


class NotCommitted(Exception):
    """The transaction was aborted, or its outcome is unknown: only W tells."""


class Unavailable(Exception):
    """A server cannot be reached at the moment."""


class Published(NamedTuple):
    """W, with what its metadata say. `origin`: log start when the topics were created."""

    position: Position
    layout: str
    origin: int


class Fetched(NamedTuple):
    """What one poll brought. `metadata` None: no member of the group at the moment."""

    records: Mapping[int, Records]
    at_end: frozenset[int]  # partitions whose end was reached in this poll
    assigned: frozenset[int]
    revoked: frozenset[int]
    metadata: object | None
    strayed: frozenset[int] = frozenset()  # partitions that are to be read where there is no log


class Announced(NamedTuple):
    """What readers of a namespace need to know, and which topic its States were computed from."""

    partitions: int
    partitioner: Partitioner
    layout: str
    topic: str  # the topic's id: another topic may come to bear the same name


class Source(Protocol):
    """`customer-events`, as a member of the group of segmenters."""

    def poll(self, limit: int, timeout: float) -> Fetched: ...
    def committed(self, partition: int) -> Published | None:
        """W, read stable; Unavailable while a transaction is pending."""

    def topic_id(self) -> str: ...
    def partitions(self) -> int:
        """How many the topic has."""

    def bounds(self, partition: int) -> tuple[int, int]:
        """Offsets of the first record that is kept, and behind the last one."""

    def log_end(self, partition: int) -> int:
        """As far as known without asking; for the lag."""

    def start(self, partition: int, offset: int) -> None:
        """Deliver the (so far paused) partition from this offset on."""

    def pause(self, partition: int) -> None: ...


Loaded = tuple[Checkpoint | None, list[bytes | None]]
"""Of one partition: the Checkpoint and, as of the same instant, the States that were asked for."""


class Write(NamedTuple):
    """What a batch leads to, and where its partition stands before it (None: nowhere yet)."""

    partition: int
    base: Position | None
    outcome: Outcome


class Store(Protocol):
    """States and Checkpoints. All methods may raise Unavailable."""

    def check(self) -> None:
        """Refused if it may throw States away."""

    def announced(self) -> Announced | None: ...
    def announce(self, announced: Announced) -> None: ...
    def checkpoint(self, partition: int) -> Checkpoint | None: ...
    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        """The Checkpoint and, as of the same instant, the customers of these minutes."""

    def load(self, wanted: Mapping[int, list[str]]) -> Mapping[int, Loaded]:
        """By partition: customers, and their States."""

    def write(self, writes: Sequence[Write]) -> set[int]:
        """Write each whose partition stands at its base; those that are there then.

        Each whole or not at all. One that is there already counts as well: a reply was lost.
        """


class Sink(Protocol):
    """The output topics."""

    def publish(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        """Records and W in one transaction; NotCommitted if refused or unknown."""

    def append_clock(self, partition: int, time: int) -> None:
        """A `segstream.clock` record; plain, a repeat is harmless."""


class Models(Protocol):
    """Published versions, by number."""

    def at_hand(self) -> Mapping[int, Model]: ...
    def refresh(self) -> None:
        """Read `segment-models` to its end."""

    def find(self, versions: Collection[int]) -> None:
        """`refresh`, more than once if one of these is not there."""


class Clock(Protocol):
    def wall(self) -> int:
        """ms since 1970; only for `segstream.clock` and for freshness metrics."""

    def monotonic(self) -> float: ...
    def cpu(self) -> float:
        """CPU seconds of this thread."""


class Observer(Protocol):
    """Takes note of facts; never changes anything."""

    def turned(self, *, member: bool) -> None:
        """The loop goes round; whether as a member of the group."""

    def ready(self, partitions: Iterable[int]) -> None:
        """These are claimed, of those owned."""

    def share(self, partition: int, share: float) -> None:
        """Of dead letters among the latest records."""

    def halted(self, partition: int, share: float) -> None:
        """A partition with too many dead letters is not computed any more."""

    def stage(self, name: str, seconds: float) -> None: ...
    def batch(self, partition: int, size: int, outcome: Outcome, before: Checkpoint) -> None: ...
    def published(self, partition: int, ages: list[int]) -> None:
        """Ages (ms since their record was appended) of the changes just committed."""

    def stands(self, partition: int, lag: int, delay: int) -> None:
        """Records behind the log end, and ms that the partition's clock is behind the wall."""

    def reclaimed(self, partition: int, why: str) -> None: ...
    def owned(self, partitions: Iterable[int]) -> None: ...


class Ports(NamedTuple):
    """Everything outside that a worker talks to."""

    source: Source
    store: Store
    sink: Sink
    models: Models
    clock: Clock
    observer: Observer
