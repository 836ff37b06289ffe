"""A replay from beginning to end."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import cast

import numpy as np

from segstream.core.hash import Partitioner, partitions_of
from segstream.shell.pace import Pace
from segstream.shell.replay.barrier import Barrier
from segstream.shell.replay.log import FILE, LINE, Headers, Log, ReplayError, Target, lines_held

#: (line, rising from 1; time in ms or None; raw id or None; value)
Call = tuple[int, int | None, str | None, bytes]

_DAY = 86_400_000
_BATCH = 2_000
_AT_EXIT = 30.0


@dataclass(frozen=True)
class Summary:
    """What a replay did: lines read, sent now, and skipped because the log held them."""

    lines: int
    sent: int
    skipped: int
    seconds: float
    stopped: bool


def _never() -> bool:
    return False


def _silent(_lines: int, _total: int | None) -> None:
    pass


def replay(
    calls: Iterable[Call],
    digest: str,
    target: Target,
    *,
    total: int | None = None,
    as_lived: bool = False,
    rate: int | None = None,
    progress: Callable[[int, int | None], None] = _silent,
    stop: Callable[[], bool] = _never,
    timeout: float = 60.0,
) -> Summary:
    """Sends the calls of the file `digest`, in order, each to its customer's partition.

    Calls that a partition holds already are skipped. `progress` gets (lines read, total) after
    each few thousand calls; when `stop` returns true, what was handed over is still flushed.

    as_lived: after each UTC day every partition gets a `segstream.clock` with that midnight, and
    nothing more is sent until segmenter and trainer have done all of the day. Models then take
    effect where they would have. Needs calls in the order of days. `timeout`: seconds in which
    nothing moves there. `rate`: at most so many calls are sent a second. Raises ReplayError.
    """
    began = time.monotonic()
    log = Log(target)
    held = lines_held(target, log.partitions, digest[:16])
    barrier = Barrier(target, log.partitions, timeout) if as_lived else None
    run = _Run(log, held, digest[:16], partitioner=target.partitioner, barrier=barrier, stop=stop)
    pace = None if rate is None else Pace(rate)
    # Calls that come slowly are to be seen as they come.
    most = _BATCH if rate is None else min(max(rate // 10, 1), _BATCH)
    try:
        for batch in _batches(calls, most):
            if run.stopped or stop():
                run.stopped = True
                break
            sent = run.sent
            run.take(batch)
            if pace is not None:
                pace.wait(run.sent - sent, stop)
            progress(run.lines, total)
        else:
            run.end()
    finally:
        if barrier is not None:
            barrier.close()
        flushed = log.flush(_AT_EXIT)
    if not flushed:
        raise ReplayError(f"Kafka has not taken the last records within {_AT_EXIT:.0f} s")
    return Summary(run.lines, run.sent, run.skipped, time.monotonic() - began, run.stopped)


def _batches(calls: Iterable[Call], most: int) -> Iterator[list[Call]]:
    rest = iter(calls)
    while batch := list(islice(rest, most)):
        yield batch


class _Run:
    """How far a replay has come."""

    def __init__(
        self, log: Log, held: list[int], file: str, *,
        partitioner: Partitioner, barrier: Barrier | None, stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._log, self._held, self._file = log, held, file
        self._partitioner, self._barrier, self._stop = partitioner, barrier, stop
        self._midnight: int | None = None
        self.lines = self.sent = self.skipped = 0
        self.stopped = False

    def take(self, batch: Sequence[Call]) -> None:
        where = self._partitions(batch)
        begin = 0
        if self._barrier is not None:
            for i, (line, ms, _, _) in enumerate(batch):
                if self._is_next_day(line, ms):
                    self._append(batch[begin:i], where[begin:i])
                    begin = i
                    self._close_days(ms or 0)
                    if self.stopped:
                        return
        self._append(batch[begin:], where[begin:])

    def end(self) -> None:
        """The last day ends too."""
        if self._midnight is not None:
            self._close_days(self._midnight)

    def _partitions(self, batch: Sequence[Call]) -> list[int]:
        """By customer; calls of nobody go round in the order of lines."""
        count = self._log.partitions
        where = np.fromiter((call[0] for call in batch), np.int64, len(batch)) % count
        known = [i for i, call in enumerate(batch) if call[2] is not None]
        ids = [raw.encode() for _, _, raw, _ in batch if raw is not None]
        where[known] = partitions_of(ids, count, self._partitioner)
        return cast("list[int]", where.tolist())

    def _append(self, batch: Sequence[Call], where: Sequence[int]) -> None:
        append, held, file = self._log.append, self._held, (FILE, self._file)
        skipped = 0
        for (line, _, raw, value), partition in zip(batch, where, strict=True):
            if line <= held[partition]:
                skipped += 1
            else:
                append(partition, raw, value, [file, (LINE, str(line))])
        if batch:
            self.lines = batch[-1][0]
        self.skipped += skipped
        self.sent += len(batch) - skipped
        self._log.poll()

    def _is_next_day(self, line: int, ms: int | None) -> bool:
        if ms is None:
            raise ReplayError(f"Line {line} has no time that can be read; as lived needs all times")
        if self._midnight is None:
            self._midnight = (ms // _DAY + 1) * _DAY
        if ms < self._midnight - _DAY:
            raise ReplayError(
                f"Line {line} is of {_date(ms)}, after lines of {_date(self._midnight - 1)}; "
                "as lived needs the order of time"
            )
        return ms >= self._midnight

    def _close_days(self, until: int) -> None:
        """Ends every day up to the time `until`, days without calls included, one by one."""
        while self._midnight is not None and self._midnight <= until and not self.stopped:
            self._close_day(self._midnight)
            self._midnight += _DAY

    def _close_day(self, midnight: int) -> None:
        # A partition that holds a later line has had this midnight. One that holds just the last
        # line before it may not; a repeat is harmless.
        lacking = [p for p, line in enumerate(self._held) if line <= self.lines]
        if not lacking or self._barrier is None:
            return
        value, headers = _clock(midnight, self._file, self.lines)
        for partition in lacking:
            self._log.append(partition, None, value, headers)
        while not self._log.flush(0.5):
            if self._stop():
                break
        self.stopped = not self._barrier.wait(f"end of {_date(midnight - 1)}", self._stop)


def _date(ms: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)).date()


def _clock(midnight: int, file: str, line: int) -> tuple[bytes, Headers]:
    """The control event that ends a day; `line` is the last one sent before it."""
    value = json.dumps({"time": f"{_date(midnight)}T00:00:00.000Z"}).encode()
    return value, [
        ("ce_specversion", "1.0"),
        ("ce_id", f"replay-{file}-{_date(midnight - 1)}"),
        ("ce_source", "/segstream/replay"),
        ("ce_type", "segstream.clock"),
        ("content-type", "application/json"),
        (FILE, file),
        (LINE, str(line)),
    ]
