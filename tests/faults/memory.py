"""How much memory processes hold, and how fast that grows."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

EVERY_SECONDS = 2.0
WARM_SECONDS = 300.0
WINDOW_SECONDS = 120.0
"""Processes tidy up once a minute, and hold more and more until then: the least they held within
two minutes is what counts."""
MIB = 1 << 20


class Growth(NamedTuple):
    """Of one process, from when it is warm on. MiB, minutes, MiB per hour."""

    name: str
    minutes: float
    first: float
    last: float
    slope: float
    error: float  # of the slope, one standard deviation

    def __str__(self) -> str:
        return (
            f"{self.name:12} {self.minutes:6.1f} min  {self.first:7.1f} → {self.last:7.1f} MiB  "
            f"{self.slope:+8.2f} ± {self.error:.2f} MiB/h"
        )


@dataclass
class Memory:
    """Samples the resident memory of whoever runs. `pids`: name → pid; another pid, another life.

    A sample is (seconds, bytes).
    """

    pids: Callable[[], Mapping[str, int | None]]
    samples: dict[tuple[str, int], list[tuple[float, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._run, name="memory")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            for name, pid in self.pids().items():
                if pid is not None and (held := resident(pid)):
                    self.samples[name, pid].append((time.monotonic(), held))

    def growths(self, warm: float = WARM_SECONDS) -> list[Growth]:
        """Of every process that lived at least as long as warm again; by least squares."""
        found = []
        for (name, _), samples in sorted(self.samples.items()):
            born = samples[0][0]
            kept = least([(t, held) for t, held in samples if t - born >= warm])
            if len(kept) > 3 and samples[-1][0] - born >= 2 * warm:
                found.append(growth(name, kept))
        return found


def least(samples: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The sample of each WINDOW_SECONDS in which least was held."""
    windows = groupby(samples, lambda sample: int((sample[0] - samples[0][0]) / WINDOW_SECONDS))
    return [min(group, key=itemgetter(1)) for _, group in windows]


def growth(name: str, samples: list[tuple[float, int]]) -> Growth:
    seconds, held = np.array(samples, float).T
    hours, mib = (seconds - seconds[0]) / 3600, held / MIB
    (slope, _), covariance = np.polyfit(hours, mib, 1, cov=True)
    error = float(np.sqrt(covariance[0, 0]))
    return Growth(name, 60 * float(hours[-1]), float(mib[0]), float(mib[-1]), float(slope), error)


def threads(pid: int) -> int:
    """0 if the process has ended (Linux)."""
    try:
        return len(list((Path("/proc") / str(pid) / "task").iterdir()))
    except OSError:
        return 0


def resident(pid: int) -> int:
    """Bytes; 0 if the process has ended (Linux)."""
    try:
        pages = (Path("/proc") / str(pid) / "statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * 4096
