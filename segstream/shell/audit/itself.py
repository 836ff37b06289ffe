"""A partition held against itself, where its log does not reach back far enough.

Changes in log order, none twice, each going on where the one before it ended; and then the last
change of a customer, its membership and its State must say the same.
"""

from collections.abc import Iterator
from contextlib import closing

from segstream.core.audit import NOWHERE, Chain, Kept, Problem, standing_of_state
from segstream.core.step import Partition
from segstream.ports import Published
from segstream.shell.audit.report import Report
from segstream.shell.audit.sources import Snapshot, Sources, kept


def against_itself(
    sources: Sources, where: Partition, published: Published, report: Report
) -> None:
    """Look at it while workers go on. Holds a number for each customer that has a change."""
    latest: dict[str, Kept] = {}

    def take(records: Iterator[Kept]) -> None:
        latest.update({r.customer: r for r in records if r.customer in sources.sample})

    with (
        closing(sources.memberships(where)) as memberships,
        closing(sources.changes(where)) as changes,
    ):
        take(kept(memberships))
        names = sorted(sources.sample.named | latest.keys())
        there = sources.snapshot(where.number, names)
        report.position = there.position(published)
        take(kept(memberships))
        whole = changes.bounds()[0] == 0
        chain = Chain(where.number, report.position, whole=whole)
        for change in kept(changes):  # each membership above was committed with its change
            report.note(chain.take(change))
    report.note(_differences(sources, there, latest, chain))
    report.customers, report.changes = len(names), chain.compared


def _differences(
    sources: Sources, there: Snapshot, latest: dict[str, Kept], chain: Chain
) -> Iterator[Problem]:
    for customer, blob in there.states.items():
        state = standing_of_state(sources.function.layout, blob)
        member = latest[customer].standing if customer in latest else NOWHERE
        last, before = chain.latest.get(customer), chain.before.get(customer)
        if last is None:  # its changes were deleted by age
            if there.checkpoint is not None and state != member:
                yield Problem("state", customer, f"says {state}, its membership says {member}")
        elif before is not None:
            if there.checkpoint is not None and state != before:
                yield Problem("state", customer, f"says {state}, its last change says {before}")
            if member != last and last == before:  # it has not moved on meanwhile
                yield Problem("membership", customer, f"says {member}, its last change says {last}")
