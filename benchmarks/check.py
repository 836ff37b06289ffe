"""A guard against lost speed: instructions of the pure core per event, against a baseline.

`make bench-check` compares, `make bench-baseline` writes benchmarks/baseline.json. Instructions are
counted by valgrind, so the neighbours on the machine do not matter; what they do not show are waits
for memory and servers, which docs/performance.md does.
"""

import json
import os
import pickle
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.counted import JOBS, Input
from benchmarks.settled import sample
from benchmarks.stages import WHERE, Bench
from benchmarks.traffic import FLAT, START_MS
from consumers.settings import load
from segstream.core import compiled
from segstream.core.event import Headers, Records
from segstream.core.output import ms_text

BASELINE = Path(__file__).with_name("baseline.json")
LOSS = 0.15
"""More instructions than that share above the baseline fail."""
CUSTOMERS, BATCH, BATCHES, HOURS, OF = 20_000, 2_000, 3, 12, 500
_CLOCK: Headers = [("ce_type", b"segstream.clock")]
VALGRIND = ("--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
# The same code on every processor that has AVX2.
QUIET = {"PYTHONHASHSEED": "0", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX X86_V4"}


def run(console: Console, *, record: bool) -> int:
    """Exit code: 0 if nothing is lost, or nothing can be said; 1 if something is."""
    if shutil.which("valgrind") is None:
        console.print("Not checked: valgrind is not installed (apt install valgrind).")
        return 0
    here = {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "numpy": version("numpy"),
        "compiled": compiled.functions is not None,
    }
    found = counts()
    if record:
        BASELINE.write_text(json.dumps({**here, "instructions": found}, indent=1) + "\n")
        console.print(f"{BASELINE.name}: {found}", highlight=False, soft_wrap=True)
        return 0
    baseline = json.loads(BASELINE.read_text())
    if baseline["python"] != here["python"]:
        console.print(
            f"Not checked: the baseline is of Python {baseline['python']}, this is "
            f"{here['python']}, which needs other numbers of instructions."
        )
        return 0
    if baseline["compiled"] and not here["compiled"]:
        console.print(
            "Not checked: the baseline is that of compiled code, and segstream was installed here "
            "without a C compiler."
        )
        return 0
    if baseline["numpy"] != here["numpy"]:
        console.print(f"The baseline is of numpy {baseline['numpy']}, this is {here['numpy']}.")
    lines = lost(baseline["instructions"], found)
    for name, number in found.items():
        before = baseline["instructions"].get(name)
        rise = "new" if before is None else f"{number / before - 1:+.1%}"
        console.print(f"{name}: {number:,} instructions, {rise}", highlight=False)
    for line in lines:
        console.print(line, style="bold red", highlight=False, soft_wrap=True)
    return 1 if lines else 0


def lost(baseline: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """What has become too dear, in words."""
    return [
        f"{name} takes {found[name]:,} instructions, {found[name] / before - 1:.0%} more than the "
        f"baseline of {before:,}: more than {LOSS:.0%} is too much. Make it fast again; or, if it "
        "is worth it, `make bench-baseline`, and say why in the commit"
        for name, before in baseline.items()
        if name in found and found[name] > before * (1 + LOSS)
    ]


def counts() -> dict[str, int]:
    """Instructions per event of `decode`, and of what follows it; and per tick."""
    given, ticks = _input()
    with tempfile.TemporaryDirectory(prefix="segstream-check-") as directory:
        file, log = Path(directory) / "input", Path(directory) / "log"
        file.write_bytes(pickle.dumps(given))
        command = ["valgrind", *VALGRIND, f"--log-file={log}.%p", sys.executable]
        done = subprocess.run(
            [*command, "-m", "benchmarks.counted", str(file)],
            env={**os.environ, **QUIET},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
        pids = json.loads(done.stdout)
        text = "".join(path.read_text() for path in Path(directory).glob("log.*"))
    total = {job: instructions(text, pids[job]) for job in JOBS}
    events = BATCH * BATCHES
    found = {
        stage: (total[stage] - total[before]) // events for before, stage in pairwise(JOBS[:3])
    }
    return {**found, "tick": (total["ticks"] - total["nothing"]) // ticks}


def instructions(log: str, pid: int) -> int:
    """Of a process, from what cachegrind says when it ends."""
    found = re.search(rf"^=={pid}== I\s+refs:\s+([\d,]+)", log, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"valgrind has not counted process {pid}: {log[-500:]}")
    return int(found[1].replace(",", ""))


def _input() -> tuple[Input, int]:
    """What is counted on, always the same; and how many ticks."""
    made = sample(FLAT, OF)
    bench = Bench(load({}), FLAT, CUSTOMERS, BATCH * BATCHES, made)
    n = WHERE.number
    base = bench.store.meta[n]
    parts: list[Any] = [bench.records.part(i * BATCH, (i + 1) * BATCH) for i in range(BATCHES)]
    until = ms_text(START_MS + HOURS * 3_600_000)
    clock = Records([0], [2**42], [json.dumps({"time": until}).encode()], [_CLOCK], [None])
    definition, index = bench.function.definition, bench.store.minutes[n]
    batch = bench.function.gather(clock, bench.function.decode(clock, WHERE), base, bench.models)
    ticks = sum(len(index.get(m, ())) for m in bench.function.due_minutes(batch))
    states = bench.store.states[n]
    given = Input(definition, made.record, WHERE, base, states, index, parts, clock)
    return given, ticks
