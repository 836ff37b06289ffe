"""The run whose instructions are counted: `valgrind … python -m benchmarks.counted FILE`.

Imports and preparation cost more than the run. So they are done once, and a child is forked for
each job, which ends when the job is done: its instructions less those of `nothing` are the job's.
Prints the process id of each. Only the core is imported: everything is slow here.
"""

import gc
import json
import os
import pickle
import sys
from pathlib import Path
from typing import NamedTuple

from segstream.core.batch import Checkpoint
from segstream.core.config import Definition
from segstream.core.event import Records
from segstream.core.model import Model
from segstream.core.record import ModelRecord
from segstream.core.step import Function, Partition

JOBS = ("nothing", "decode", "step", "ticks")
"""Each of the first three does what the one before does, and more."""


class Input(NamedTuple):
    """What the jobs work on; `ticks` is one record that makes time pass."""

    definition: Definition
    record: ModelRecord
    where: Partition
    checkpoint: Checkpoint
    states: dict[str, bytes]
    minutes: dict[int, set[str]]
    events: list[Records]
    ticks: Records


class Core:
    """The core and what it knows of the customers."""

    def __init__(self, given: Input) -> None:
        self.given = given
        self.function = Function(given.definition)
        self.models = {given.record.model: Model(given.record)}

    def do(self, job: str) -> None:
        """One job. Every batch starts from the same States: writing them is not looked at."""
        for records in self.given.events if job != "ticks" else [self.given.ticks]:
            if job != "nothing":
                self.compute(records, job)

    def compute(self, records: Records, job: str) -> None:
        function, base, where = self.function, self.given.checkpoint, self.given.where
        decoded = function.decode(records, where)
        if job == "decode":
            return
        batch = function.gather(records, decoded, base, self.models)
        index = self.given.minutes
        due = [c for m in function.due_minutes(batch) for c in sorted(index.get(m, ()))]
        customers = function.touched(batch, base, due)
        states = (customers, [self.given.states.get(c) for c in customers])
        function.step(batch, base, where, self.models, states)


def main(file: Path) -> None:
    core = Core(pickle.loads(file.read_bytes()))
    core.do("step")  # what is made once is not counted
    gc.freeze()
    gc.disable()
    pids = {}
    for job in JOBS:
        if (pid := os.fork()) == 0:
            core.do(job)
            os._exit(0)
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"the job `{job}` has failed")
        pids[job] = pid
    print(json.dumps(pids))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
