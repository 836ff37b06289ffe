"""Sends a file's calls into `customer-events`, again and again without doubling.

Every record carries the file's digest and the line's number in its headers. A partition's log is
thus its own bookmark: a replay that was stopped, at whatever point, looks at the ends of the
partitions and goes on behind the lines they hold.

As lived, the time between the calls is played as well: see `replay`.
"""

from segstream.shell.replay.log import ReplayError, Target
from segstream.shell.replay.send import Call, Summary, replay

__all__ = ["Call", "ReplayError", "Summary", "Target", "replay"]
