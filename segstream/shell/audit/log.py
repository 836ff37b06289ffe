"""A partition computed again from its log, and held against what is there while workers go on.

    log ─▶ up to N ─▶ expected ┬─ changes, in step with their topic
                               ├─ Checkpoint and States of a sample, read in one instant
                               └─ last memberships of the sample

Redis is read when the recomputation is near, and where it stands then is the next target. At last
it goes on to W, if that is further. What is beyond is none of this audit's business.
"""

from collections.abc import Iterator
from contextlib import closing

from segstream.core.audit import Changes, Kept, Problem, membership_differences
from segstream.core.batch import Checkpoint, Position
from segstream.core.difference import checkpoint_differences, state_differences
from segstream.core.output import Output
from segstream.core.recompute import Recomputation, Unreachable
from segstream.core.step import Partition
from segstream.ports import Published, Unavailable
from segstream.shell.audit.report import Report
from segstream.shell.audit.sources import Snapshot, Sources, kept
from segstream.shell.reading import Reading
from segstream.shell.recompute import Progress, Recomputer

STATES = 2_000
"""Read from Redis in one instant."""


class AgainstLog:
    """One partition, from where its States begin. Holds all of them, and what the sample has."""

    def __init__(
        self, sources: Sources, where: Partition, published: Published, report: Report
    ) -> None:
        self.sources, self.where, self.published, self.report = sources, where, published, report
        start = Checkpoint(published.origin, 0, published.layout)
        self.again = Recomputation(sources.function, where, start)
        self.customers: dict[str, None] = dict.fromkeys(sorted(sources.sample.named))
        self.memberships: dict[str, bytes | None] = {}

    def run(self, log: Reading, progress: Progress) -> None:
        """Look at everything; Unavailable if servers do not answer, or Redis goes back."""
        with closing(self.sources.changes(self.where)) as self.topic:
            self.computer = Recomputer(self.again, log, self.sources.models, progress)
            whole = self.topic.bounds()[0] == 0
            self.changes = Changes(self.where.number, kept(self.topic), whole=whole)
            if self._reaches(self.report.position):
                self._redis()
            if self.again.checkpoint.position < self.published.position:
                self._reaches(self.published.position)
            self._memberships()
        self.report.records, self.report.customers = self.again.records, len(self.customers)
        self.report.changes = self.changes.compared

    def _reaches(self, target: Position) -> bool:
        """Compute up to there, in step with the topic of changes."""
        self.changes.go_on(kept(self.topic))  # what was said up to the target is there by now
        try:
            for output in self.computer.to(target):
                self._expect(output)
        except Unreachable as error:
            self.report.note([Problem("checkpoint", "", str(error))])
            return False
        return True

    def _expect(self, output: Output) -> None:
        customer = (output.key or b"").decode(errors="replace")
        if output.topic == "changes":
            self.report.note(self.changes.expect(output))
        elif output.topic == "memberships" and customer in self.sources.sample:
            self.memberships[customer] = output.value

    def _redis(self) -> None:
        """Checkpoint and States, a part of the sample at a time."""
        sample = self.sources.sample
        self.customers |= {c: None for c in self.again.states if c in sample}
        self.customers |= dict.fromkeys(self.memberships)  # some are gone
        names = list(self.customers)
        for first in range(0, max(1, len(names)), STATES):
            there = self.sources.snapshot(self.where.number, names[first : first + STATES])
            position = there.position(self.published)
            if position < self.again.checkpoint.position:
                raise Unavailable(
                    f"partition {self.where.number} went back to {position} in Redis during the "
                    "audit: run it again"
                )
            if not self._reaches(position):
                return
            self.report.position = position
            self.report.note(self._differences(there))

    def _differences(self, there: Snapshot) -> Iterator[Problem]:
        if there.checkpoint is not None:
            for text in checkpoint_differences(there.checkpoint, self.again.checkpoint):
                yield Problem("checkpoint", "", text)
        layout = self.sources.function.layout
        for customer, blob in there.states.items():
            wanted = self.again.states.get(customer)
            for text in state_differences(layout, blob, wanted):
                yield Problem("state", customer, text)
            if there.indexed[customer] is not (wanted is not None):
                text = "is not" if wanted is not None else "is still"
                yield Problem("index", customer, f"{text} among the customers of its minute")

    def _memberships(self) -> None:
        """The last ones of the sample, of all who have not moved on meanwhile."""
        latest: dict[str, Kept] = {}
        with closing(self.sources.memberships(self.where)) as topic:
            for membership in kept(topic):
                if membership.customer in self.sources.sample:
                    latest[membership.customer] = membership
        # Now, not before: each of these memberships was committed together with its change.
        self.changes.go_on(kept(self.topic))
        self.report.note(self.changes.finish(self.again.checkpoint.position))
        for customer in latest.keys() | self.memberships.keys():
            if customer in self.changes.later:
                continue
            there, wanted = latest.get(customer), self.memberships.get(customer)
            for text in membership_differences(there, wanted):
                self.report.note([Problem("membership", customer, text)])
