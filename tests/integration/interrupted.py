"""`segstream redrive` that a signal meets at one of its commits: KILL or STOP, before or after it.

python -m tests.integration.interrupted SIGNAL before|after NUMBER redrive …
"""

import os
import signal
import sys
from typing import Any

from confluent_kafka import Producer

from consumers.cli import main
from segstream.shell import redrive, transaction

RECORDS = 20
"""Of each transaction here."""


class Interrupted(Producer):
    """Kafka has all records of the transaction when the signal comes before the commit."""

    meant: tuple[int, str] = (0, "")
    signal = signal.SIGKILL
    commits = 0

    def commit_transaction(self, *arguments: Any) -> None:
        Interrupted.commits += 1
        if self.meant == (self.commits, "before"):
            assert self.flush(30) == 0
            os.kill(os.getpid(), self.signal)
        super().commit_transaction(*arguments)
        if self.meant == (self.commits, "after"):
            os.kill(os.getpid(), self.signal)


if __name__ == "__main__":
    _, kind, when, number, *rest = sys.argv
    Interrupted.signal, Interrupted.meant = signal.Signals[f"SIG{kind}"], (int(number), when)
    vars(transaction)["Producer"] = Interrupted
    vars(redrive)["MOST_RECORDS"] = RECORDS
    sys.argv = ["segstream", *rest]
    main()
