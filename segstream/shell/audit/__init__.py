"""`segstream audit`: is what is there what the log says? Reads only, while workers go on.

`log.py` computes a partition again; `itself.py` is for those whose log does not reach back.
"""

from contextlib import closing

from segstream.core.audit import Problem
from segstream.core.step import Partition
from segstream.ports import Published
from segstream.shell.audit.itself import against_itself
from segstream.shell.audit.log import AgainstLog
from segstream.shell.audit.report import Report
from segstream.shell.audit.sources import Sources, Topics
from segstream.shell.recompute import Progress

__all__ = ["Report", "Sources", "Topics", "audit"]


def audit(sources: Sources, where: Partition, published: Published, progress: Progress) -> Report:
    """Look at one partition. Unavailable: a server did not answer, or Redis went back."""
    there = sources.snapshot(where.number)
    stands = there.position(published)
    report = Report(where.number, stands)
    with closing(sources.events(where, published.origin)) as log:
        start, end = log.bounds()
        if start > published.origin:
            origin = published.origin
            report.obstacle = f"its log begins at offset {start:,}, its States at {origin:,}"
            if there.checkpoint is not None and there.checkpoint.rebuilt_from is not None:
                rebuilt = there.checkpoint.rebuilt_from
                report.obstacle += f", and had an approximate new start from {rebuilt:,} on"
            against_itself(sources, where, published, report)
        elif max(stands.offset, published.position.offset) > end:
            report.obstacle = f"its log ends at offset {end:,}"
            places = f"N is at offset {stands.offset:,}, W at {published.position.offset:,}"
            report.note([Problem("checkpoint", "", f"{places}, the log ends at {end:,}")])
        else:
            AgainstLog(sources, where, published, report).run(log, progress)
    return report
