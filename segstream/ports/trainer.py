"""What the trainer needs from outside, as Protocols."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from segstream.core.record import Drift, ModelRecord, Rename


class Polled(NamedTuple):
    """What one poll of the samples brought.

    `claim`: number of this ownership, another one after each (re)assignment and restart; None:
    standing by. `fence`: what `publish` needs to prove the ownership; None: not known now.
    """

    claim: int | None
    records: list[tuple[bytes | None, bytes | None]]
    fence: object | None


class Samples(Protocol):
    """`feature-samples`, as a member of the group of trainers; each claim starts at the beginning.

    Errors of polling itself are Unavailable.
    """

    def poll(self, timeout: float) -> Polled: ...
    def settle(self) -> None:
        """Return when no transaction of a former owner is open; Unavailable if that lasts."""

    def restart(self) -> None:
        """Begin a new claim, from the first record, if the partition is still owned."""

    def handled(self) -> None:
        """All that was polled is handled: commit when it is time to."""


class Versions(Protocol):
    """`segment-models`: versions by number, and what people want segments to be called."""

    def refresh(self) -> None:
        """Read to the end, pending transactions included; Unavailable if that lasts."""

    def records(self) -> Mapping[int, ModelRecord]: ...
    def renames(self) -> Mapping[int, Rename]:
        """The newest of each segment, the oldest first: of what has come by now, without waiting.

        Unavailable if they cannot be read.
        """


class Press(Protocol):
    """Where versions go out."""

    def publish(self, record: ModelRecord, fence: object) -> None:
        """In one transaction with the fence; NotCommitted if refused or unknown."""

    def announce(self, record: ModelRecord) -> None:
        """Append `segstream.model` to all partitions of events; Unavailable if one fails."""


class Observer(Protocol):
    """Takes note of facts; never changes anything."""

    def turned(self, *, owner: bool) -> None:
        """The loop goes round; whether as the owner of the samples."""

    def claimed(self, newest: ModelRecord | None) -> None: ...
    def forgot(self, why: str) -> None: ...
    def skipped(self, reason: str) -> None:
        """A record that is not learned: `invalid` or `features`."""

    def learned(self, day: int, samples: int, panel: int) -> None: ...
    def watched(self, day: int, drift: Drift) -> None:
        """What the drift monitors know after a day."""

    def published(self, record: ModelRecord, fit_seconds: float) -> None: ...
