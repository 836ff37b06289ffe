"""What an installation needs: from customers and events per second to machines and money.

Straight arithmetic with measured constants; every line says what it was computed from, so that a
person can check it. What it leaves out stands in docs/sizing.md. GB are 10⁹ bytes, a month is 730
hours.
"""

from collections.abc import Callable
from math import ceil, floor

from segstream.core.demand import (
    MOST,
    NODES,
    Configured,
    Demand,
    Line,
    Measured,
    Prices,
    Shard,
    Size,
    TooBig,
)
from segstream.core.footprint import footprint
from segstream.core.slots import Range, equal_ranges, even_ranges, shares

GB = 10**9
HOURS = 730
MONTH = HOURS * 3600
DAY = 86_400
FEWEST = 64
"""Partitions in production."""
CUSTOMERS = 1_000_000
"""Of one partition, at most."""
AOF = 3
"""A log on disk may grow to twice the data, and is then written anew beside itself."""
FINE = 4
"""Partitions that a shard should have room for, since none can be divided."""
PARTS = ("partitions", "segmenters", "trainer", "Redis", "Kafka", "cost")
KEYED = 4
"""Topics with as many partitions as customer-events, itself included."""


def size(demand: Demand, configured: Configured, measured: Measured, prices: Prices) -> Size:
    """TooBig if there is no answer."""
    sheet = _Sheet(demand, configured, measured)
    sheet.segmenters()
    sheet.redis()
    sheet.kafka()
    sheet.cost(prices)
    return Size(sorted(sheet.lines, key=_place), sheet.shards, sheet.notes)


def _place(line: Line) -> int:
    return PARTS.index(line.part)


class _Sheet:
    """The lines as they are written, one from the other."""

    def __init__(self, demand: Demand, configured: Configured, measured: Measured) -> None:
        self.demand, self.configured, self.measured = demand, configured, measured
        self.lines: list[Line] = []
        self.notes: list[str] = []
        self.shards: list[Shard] = []
        kind = demand.traffic
        self.per_core: float = getattr(measured.events_per_core, kind)
        self.states: float = getattr(measured.states_per_event, kind)
        self.redis_us: float = getattr(measured.redis_us_per_event, kind)

    def put(self, part: str, name: str, value: float, unit: str, how: str) -> float:
        self.lines.append(Line(part, name, value, unit, how))
        return value

    # -- processes --------------------------------------------------------------------

    def segmenters(self) -> None:
        d, m = self.demand, self.measured
        ticks = self.put(
            "segmenters", "ticks", d.customers / self.configured.tick_seconds, "/s",
            f"{n(d.customers)} customers / {n(self.configured.tick_seconds)} s (tick.period)",
        )  # fmt: skip
        busy = self.put(
            "segmenters", "busy cores",
            d.events_per_second / self.per_core + ticks * m.tick_us / 1e6, "cores",
            f"{n(d.events_per_second)} events/s / {n(self.per_core)} events/s per core "
            f"({d.traffic}) + {n(ticks)} ticks/s × {n(m.tick_us)} µs",
        )  # fmt: skip
        self.threads = d.events_per_second * self.redis_us / 1e6 + ticks * m.redis_tick_us / 1e6
        self._customer()
        self.partitions = self._partitions(busy)
        carries = min(floor(self.partitions * d.utilisation / busy + 1e-9), self.partitions)
        if carries < 1:
            raise TooBig(
                f"{self.partitions} partitions are too few: one of them has more events than "
                f"one process can compute ({n(busy / self.partitions)} of a core, at most "
                f"{d.utilisation:g}). Without --partitions they are computed"
            )
        self.put(
            "segmenters", "partitions of one process", carries, "at most",
            f"{d.utilisation:g} utilisation / ({n(busy)} busy cores / {self.partitions} "
            "partitions), rounded down",
        )  # fmt: skip
        self.processes = self.put(
            "segmenters", "processes", ceil(self.partitions / carries), "of one core each",
            f"{self.partitions} partitions / {carries}, rounded up",
        )  # fmt: skip

    def _customer(self) -> None:
        d = self.demand
        one = footprint(self.configured, self.measured, d.id_bytes)
        each = self.put("Redis", "one customer", one.bytes, "bytes", str(one))
        self.total = self.put(
            "Redis", "all customers", d.customers * each / GB, "GB",
            f"{n(d.customers)} × {n(each)} bytes",
        )  # fmt: skip

    def _partitions(self, busy: float) -> int:
        d = self.demand
        room = d.shard_gb * d.utilisation
        needed = {
            f"{FEWEST} in production": FEWEST,
            f"{n(d.customers)} customers / {n(CUSTOMERS)}": ceil(d.customers / CUSTOMERS),
            f"{n(busy)} busy cores / {d.utilisation:g}": ceil(busy / d.utilisation),
            f"{FINE} × {n(self.total)} GB / ({d.shard_gb:g} GB of a shard × {d.utilisation:g})": (
                ceil(FINE * self.total / room)
            ),
            f"{FINE} × {n(self.threads)} busy Redis threads / {d.utilisation:g}": ceil(
                FINE * self.threads / d.utilisation
            ),
        }
        most = max(needed.values())
        how = "the most of: " + "; ".join(f"{why} → {number}" for why, number in needed.items())
        if d.partitions is None and most > MOST:
            raise TooBig(
                f"{n(most)} partitions would be needed, and topics.partitions takes at most "
                f"{n(MOST)}. Split the customers over several namespaces"
            )
        if d.partitions is not None and d.partitions < most:
            self.notes.append(f"{d.partitions} partitions are given, {most} are advised: {how}")
        how = how if d.partitions is None else "as given"
        return int(self.put("partitions", "number", d.partitions or most, "chosen once", how))

    # -- Redis ------------------------------------------------------------------------

    def redis(self) -> None:
        d = self.demand
        self.put(
            "Redis", "busy threads", self.threads, "threads",
            f"{n(d.events_per_second)} events/s × {n(self.redis_us)} µs ({d.traffic}) + ticks × "
            f"{n(self.measured.redis_tick_us)} µs; a Redis computes in one thread",
        )  # fmt: skip
        shards = d.shards or self._shards(self._ranges(even=d.even_slots))
        ranges = self._ranges(even=d.even_slots)(shards)
        counts = shares(self.partitions, ranges)
        self.shards = [Shard(*of) for of in zip(counts, ranges, strict=True)]
        fullest = max(counts)
        self.put(
            "Redis", "shards", shards, "primaries",
            "as given" if d.shards else f"the fewest of 1, 3, 4, … so that the fullest needs at "
            f"most {d.utilisation:g} of its thread and of {d.shard_gb:g} GB",
        )  # fmt: skip
        share = fullest / self.partitions
        self.node_gb = self.put(
            "Redis", "memory of a node", ceil(self.total * share / d.utilisation), "GB",
            f"{n(self.total)} GB × {fullest} of {self.partitions} partitions on the fullest shard "
            f"/ {d.utilisation:g}, rounded up",
        )  # fmt: skip
        self.put(
            "Redis", "thread of the fullest", self.threads * share, "of 1",
            f"{n(self.threads)} × {fullest} / {self.partitions}",
        )  # fmt: skip
        self.nodes = self.put(
            "Redis", "nodes", shards * (1 + d.redis_replicas), "",
            f"{shards} primaries × (1 + {d.redis_replicas} replicas)",
        )  # fmt: skip
        self.redis_disk = self.put(
            "Redis", "disk", self.total * AOF * (1 + d.redis_replicas), "GB",
            f"appendonly: {AOF} × {n(self.total)} GB × (1 + {d.redis_replicas})",
        )  # fmt: skip
        moved = d.events_per_second * self.states * self.configured.state_bytes / 1e6
        self.redis_traffic = self.put(
            "Redis", "traffic", moved * (2 + d.redis_replicas), "MB/s",
            f"{n(d.events_per_second)} events/s × {n(self.states)} States × "
            f"{self.configured.state_bytes} bytes × (read + written + {d.redis_replicas} copied)",
        )  # fmt: skip
        self._remark(counts)

    def _ranges(self, *, even: bool) -> Callable[[int], list[Range]]:
        """How slots are given out to so many shards."""

        def ranges(shards: int) -> list[Range]:
            if even and shards <= self.partitions:
                return even_ranges(self.partitions, shards)
            return equal_ranges(shards)

        return ranges

    def _shards(self, ranges: Callable[[int], list[Range]]) -> int:
        """The fewest that carry it."""
        d = self.demand
        fewest = max(self.threads, self.total / d.shard_gb) / d.utilisation
        for number in range(max(1, floor(fewest)), NODES + 1):
            fullest = max(shares(self.partitions, ranges(number)))
            if number != 2 and self._fits(fullest / self.partitions):  # two could not vote
                return number
        way = "give shards more memory, or split the customers over several namespaces"
        if not d.even_slots:
            way = f"give slots out by partitions (--even-slots), {way}"
        raise TooBig(
            f"no cluster of up to {NODES:,} shards of {d.shard_gb:g} GB carries this: {way}"
        )

    def _fits(self, share: float) -> bool:
        d = self.demand
        return (
            self.threads * share <= d.utilisation
            and self.total * share <= d.shard_gb * d.utilisation
        )

    def _remark(self, counts: list[int]) -> None:
        d, fullest, mean = self.demand, max(counts), self.partitions / len(counts)
        if empty := [str(number) for number, count in enumerate(counts) if not count]:
            self.notes.append(
                f"{len(empty)} of {len(counts)} shards get no partition: numbers "
                f"{', '.join(empty)}. Give slots out by partitions (--even-slots), or take fewer"
            )
        elif fullest > 1.1 * mean:
            self.notes.append(
                f"the fullest shard holds {fullest} partitions, {fullest / mean:.2f} times an "
                "equal share. Give slots out by partitions: --even-slots"
            )
        even = self._ranges(even=True)
        if d.shards is None and (fewer := self._shards(even)) < len(counts):
            self.notes.append(f"with --even-slots {fewer} shards would do")
        if not self._fits(fullest / self.partitions):
            self.notes.append(
                f"{len(counts)} shards are too few: the fullest needs more than "
                f"{d.utilisation:g} of its thread, or of {d.shard_gb:g} GB"
            )

    # -- Kafka ------------------------------------------------------------------------

    def kafka(self) -> None:
        d, m = self.demand, self.measured
        events = d.events_per_second * d.event_bytes / 1e6
        changes = d.customers * m.changes_per_customer_month / MONTH
        told = changes * (m.change_bytes + m.membership_bytes) / 1e6
        self.put(
            "Kafka", "changes", changes, "/s",
            f"{n(d.customers)} customers × {m.changes_per_customer_month:g} a month",
        )  # fmt: skip
        come = self.put(
            "Kafka", "in", events + told, "MB/s",
            f"{n(d.events_per_second)} events/s × {d.event_bytes} bytes + changes × "
            f"({m.change_bytes} + {m.membership_bytes}) bytes",
        )  # fmt: skip
        copied = self.put(
            "Kafka", "between brokers", come * (d.replication - 1), "MB/s",
            f"{n(come)} MB/s × ({d.replication} copies - 1)",
        )  # fmt: skip
        gone = self.put(
            "Kafka", "out", events + d.readers * told, "MB/s",
            f"{n(events)} MB/s to segmenters + {d.readers} × {n(told)} MB/s to readers of changes",
        )  # fmt: skip
        self.kafka_traffic = come + copied + gone
        kept = d.retention_days * DAY
        self.kafka_disk = self.put(
            "Kafka", "disk",
            (come * kept / 1000 + 2 * d.customers * m.membership_bytes / GB) * d.replication, "GB",
            f"({n(come)} MB/s × {d.retention_days:g} days + 2 × {n(d.customers)} memberships × "
            f"{m.membership_bytes} bytes, until they are compacted) × {d.replication} copies",
        )  # fmt: skip
        self.put(
            "partitions", "replicas", (KEYED * self.partitions + 2) * d.replication, "",
            f"({KEYED} topics × {self.partitions} partitions + 2) × {d.replication} copies",
        )  # fmt: skip

    # -- money ------------------------------------------------------------------------

    def cost(self, prices: Prices) -> None:
        d, m = self.demand, self.measured
        self.put(
            "trainer", "processes", d.trainers, "of one core each",
            "one works, the others stand by; its work does not grow with the customers",
        )  # fmt: skip

        def machines(part: str, vcpus: float, memory: float, disk: float) -> float:
            return self.put(
                "cost", part, vcpus * HOURS * prices.vcpu_hour + memory * prices.memory_gb
                + disk * prices.disk_gb, "a month",
                f"{n(vcpus)} vCPU × {HOURS} h × {prices.vcpu_hour:g} + {n(memory)} GB × "
                f"{prices.memory_gb:g} + {n(disk)} GB of disk × {prices.disk_gb:g}",
            )  # fmt: skip

        total = machines("segmenters", self.processes, self.processes * m.segmenter_gb, 0)
        total += machines("trainer", d.trainers, d.trainers * m.trainer_gb, 0)
        total += machines(
            "Redis", self.nodes * d.redis_vcpus, self.nodes * self.node_gb, self.redis_disk
        )
        total += machines("Kafka", d.kafka_vcpus, 0, self.kafka_disk)
        if not d.kafka_vcpus:
            self.notes.append("cores and memory of Kafka's brokers are not counted: --kafka-vcpus")
        moved = (self.kafka_traffic + self.redis_traffic) * MONTH / 1000
        total += self.put(
            "cost", "traffic", moved * prices.traffic_gb, "a month",
            f"{n(moved)} GB (Kafka {n(self.kafka_traffic)} MB/s + Redis {n(self.redis_traffic)} "
            f"MB/s, {n(MONTH)} s) × {prices.traffic_gb:g}",
        )  # fmt: skip
        self.put("cost", "total", total, "a month", "the sum of these lines")


def n(value: float) -> str:
    """A number as people read it: whole from 100 on, else with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
