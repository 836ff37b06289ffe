"""The trainer's loop: samples in, versions of the model out.

    poll ─▶ read ─▶ learn each day that ended ─▶ a version is due? ─▶ publish ─▶ announce ─▶ commit

**Who trains.** One trainer of the group owns the one partition of `feature-samples`; the others
stand by. Ownership lost, a refused or unknown publication: forget everything, claim again.

**Claim.** Read the versions to their end, then the samples from the beginning (the topic is
compacted: it is the memory), and append the newest `segstream.model` again, because the last owner
may have died between publishing and announcing. A repeat does nothing.

**Publish, then announce.** The version goes out in a transaction that carries an offset of the
group, only so that Kafka refuses it from a trainer that is no longer the owner: no two trainers can
publish the same version. It carries the offset *before* the batch, so the group never looks done
while the announcement is missing. Then `segstream.model` is appended to every partition of events.

**Names by people** are records beside the versions, and compared with the newest version at each
turn. What it takes is a version with the same centres, published like any other.

**Commit.** Offsets say how far samples were handled and their versions announced; `replay
--as-lived` waits for them. Nobody starts from them, so a plain commit will do: one by a trainer
that lost the partition could set them back, which at most makes somebody wait.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from segstream.core.record import ModelRecord
from segstream.learn import Training
from segstream.ports import NotCommitted, Unavailable
from segstream.ports.trainer import Observer, Polled, Press, Samples, Versions
from segstream.study import Foreign, Start, Study, explained

log = logging.getLogger(__name__)


class Ports(NamedTuple):
    """Everything outside that a trainer talks to. `start` makes the online clusterer."""

    samples: Samples
    versions: Versions
    press: Press
    start: Start
    observer: Observer


class Trainer:
    """Drives one Study for as long as the partition is owned."""

    def __init__(self, training: Training, ports: Ports, poll_seconds: float = 0.2) -> None:
        self.training, self.ports, self.poll_seconds = training, ports, poll_seconds
        self.study: Study | None = None
        self._claim: int | None = None

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until `stop()`."""
        while not stop():
            self.turn()

    def turn(self) -> None:
        """Poll once, and learn and publish what came."""
        try:
            polled = self.ports.samples.poll(self.poll_seconds)
            self.ports.observer.turned(owner=polled.claim is not None)
            if polled.claim != self._claim:
                self._forget("claimed anew" if polled.claim else "standing by")
                self._claim = polled.claim
            if polled.claim is None:
                return
            if self.study is None:
                self.study = self._begin()
            self._work(self.study, polled)
            self._rename(self.study, polled.fence)
            self.ports.samples.handled()
        except (NotCommitted, Unavailable) as error:
            self._forget(str(error))
            self.ports.samples.restart()

    def _forget(self, why: str) -> None:
        if self.study is not None:
            log.info("forgetting the panel: %s", why)
            self.ports.observer.forgot(why)
        self.study, self._claim = None, None

    def _begin(self) -> Study:
        """Everything up to here is what a standby does not have."""
        self.ports.samples.settle()
        self.ports.versions.refresh()
        study = Study(self.training, self.ports.versions.records(), self.ports.start)
        if study.newest is not None:
            self.ports.press.announce(study.newest)
        self.ports.observer.claimed(study.newest)
        return study

    def _work(self, study: Study, polled: Polled) -> None:
        for key, value in polled.records:
            self._read(study, key, value)
        for day, samples in study.days():
            study.learn(day, samples)
            self.ports.observer.learned(day, len(samples), len(study.panel))
            if study.watch is not None:
                self.ports.observer.watched(day, study.watch.drift)
            if study.due(day):
                self._publish(study, day, polled.fence)

    def _read(self, study: Study, key: bytes | None, value: bytes | None) -> None:
        """A record that cannot be read must not stop the model for everybody."""
        try:
            study.read(key, value)
        except Foreign:
            self.ports.observer.skipped("features")
        except ValueError as error:
            log.warning("skipped a record that is no sample: %s", explained(error))
            self.ports.observer.skipped("invalid")

    def _publish(self, study: Study, day: int, fence: object | None) -> None:
        if fence is None:
            raise NotCommitted("not a member of the group at the moment")
        began = time.perf_counter()
        record = study.fit(day)
        if study.worth_telling(record, day):
            self._put_out(study, record, fence, began)

    def _rename(self, study: Study, fence: object | None) -> None:
        """Names that people want are compared with the newest version at each turn."""
        began = time.perf_counter()
        if fence is None:
            return  # not a member at the moment: at another turn
        record = study.renamed(self.ports.versions.renames())
        if record is not None:
            self._put_out(study, record, fence, began)

    def _put_out(self, study: Study, record: ModelRecord, fence: object, began: float) -> None:
        seconds = time.perf_counter() - began
        self.ports.press.publish(record, fence)
        self.ports.press.announce(record)
        study.adopt(record)
        log.info("published version %d: %d segments", record.model, len(record.segments))
        self.ports.observer.published(record, seconds)
