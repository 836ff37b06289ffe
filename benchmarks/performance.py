"""All figures as docs/performance.md, from docs/performance.json: targets, then tables."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import STAGES
from benchmarks.stages import PARTS
from benchmarks.targets import TARGETS, Found


def page(found: Found) -> str:
    """docs/performance.md."""
    machine = found["machine"]
    versions = " · ".join(f"{name} {value}" for name, value in found["versions"].items())
    rows = [
        (t.text, t.wanted(), "–" if v is None else f"**{t.form % v}**" if t.missed(found) else
         t.form % v)
        for t in TARGETS for v in [t.value(found)]
    ]  # fmt: skip
    parts = [
        "# How fast it is\n",
        f"Written by `{found['command']}` from [performance.json](performance.json); do not edit.",
        f"Measured on {found['date'][:10]} on {machine['cpu']}, {machine['cores']} cores,",
        f"{machine['memory_gb']} GB, {machine['system']}; load before: {machine['load']}.",
        f"{versions}.\n",
        *_crowded(machine),
        "A figure in bold misses its target; – was not measured.\n",
        _table(("figure", "target", "measured"), rows),
        *(text for name in SECTIONS if name in found for text in SECTIONS[name](found[name])),
        METHOD,
    ]
    return "\n".join(parts)


def _crowded(machine: Found) -> Iterator[str]:
    """A warning, if the machine had other work."""
    if machine["load"] > machine["cores"]:
        yield (
            "**The machine was busy when this began.** As long as it stayed so, wall times, rates "
            "and latencies say how it was then, not how fast it is; times of CPU are longer than "
            "on a quiet machine, too.\n"
        )


def section(name: str, found: Any) -> str:
    """The tables of one part."""
    return "\n".join(SECTIONS[name](found))


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _end_to_end(results: Sequence[Found]) -> Iterator[str]:
    runs, events = len(results[0]["runs"]), results[0]["median"]["events"]
    yield "## Catching up, end to end\n"
    yield (
        f"One segmenter between real Kafka and Redis, transactions and compare-and-set included: "
        f"{events:,} events at once, median of {runs} runs.\n"
    )
    head = ("", *(f"{r['traffic']}, {r['customers']:,} customers" for r in results))

    def cells(key: str, form: str, part: str = "median") -> list[str]:
        return [format(r[part][key], form) for r in results]

    yield _table(
        head,
        [
            ("events/s of CPU time", *cells("per_cpu_second", ",.0f")),
            ("events/s of wall time", *cells("per_wall_second", ",.0f")),
            ("CPU seconds per million events", *cells("us", ".2f")),
            ("… of Kafka", *cells("us_kafka", ".2f")),
            ("… of Redis", *cells("us_valkey", ".2f")),
            (
                "events that led to a change",
                *(f"{r['median']['changes'] / r['median']['events']:.2%}" for r in results),
            ),
            ("ticks/s of CPU time", *cells("per_cpu_second", ",.0f", "ticks")),
            ("ticks/s of wall time", *cells("per_wall_second", ",.0f", "ticks")),
            ("start to first event, s", *(f"{r['start_seconds']:.2f}" for r in results)),
            ("Redis, bytes per customer", *(r["redis_bytes_per_customer"] for r in results)),
            *(
                (f"{who}, MB at most", *(r["peak_mb"][who] for r in results))
                for who in ("segmenter", "kafka", "valkey")
            ),
        ],
    )
    yield "CPU of one event in the segmenter, µs:\n"
    rest = (
        ("main thread, besides", "main_other"),
        ("librdkafka and other threads", "other_threads"),
    )
    stages = [(stage, stage) for stage in STAGES]
    yield _table(head, [(text, *cells(f"us_{key}", ".2f")) for text, key in (*stages, *rest)])


def _stages(rows: Sequence[Found]) -> Iterator[str]:
    yield "## The core alone, by stage\n"
    yield (
        "CPU of one event, µs; States in memory, each of four partitions alone. Of `step`: windows "
        "(advance), features (vectorize), distances (assign), hysteresis (compare), records of "
        "changes (say), and the rest, which unpacks, sorts and packs.\n"
    )
    keys = ("us_decode", "us_gather", "us_step", "us")
    parts = [f"us_step_{part}" for part in (*PARTS, "rest")]
    where = ("traffic", "customers", "batch")

    def cells(row: Found, names: Sequence[str]) -> list[str]:
        place = [row["traffic"], f"{row['customers']:,}", f"{row['batch']:,}"]
        return [*place, *(f"{row[name]:.2f}" for name in names)]

    yield _table(
        (*where, "decode", "gather", "step", "sum", "customers per event", "changes per 1,000"),
        [(*cells(r, keys), f"{r['customers_per_event']:.2f}", r["changes_per_1000"]) for r in rows],
    )
    yield _table((*where, *(f"… {p}" for p in (*PARTS, "rest"))), [cells(r, parts) for r in rows])


def _latency_tables(found: Found) -> Iterator[str]:
    yield "## From an event to its change\n"
    yield (
        f"{found['customers']:,} customers, flat traffic, default settings; the highest rate that "
        f"was sustained, sender and reader included, is {found['highest_per_second']:,} "
        "events/s.\n"
    )
    yield _latency_table(found["rates"])


def _latency_table(rows: Sequence[Found]) -> str:
    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:,.1f}"

    keys = ("p50_ms", "p99_ms", "p99.9_ms", "most_ms")
    behind = "sender_behind_p99_ms"
    return _table(
        ("events/s", "load", "p50, ms", "p99", "p99.9", "at most", "changes", "sender behind, p99",
         "CPU s per million: segmenter", "Kafka", "Redis"),
        [
            (f"{r['rate']:,.0f}", "–" if r.get("share") is None else f"{r['share']:.0%}",
             *(ms(r[key]) for key in keys), f"{r['measured']:,}", ms(r[behind]),
             *(f"{r[key]:.1f}" for key in ("us", "us_kafka", "us_valkey")))
            for r in rows
        ],
    )  # fmt: skip


def _memory(found: Found) -> Iterator[str]:
    last = found["readings"][-1]
    yield "## Memory\n"
    yield (
        f"{found['customers']:,} customers, {found['rate']:,} events/s for "
        f"{last['seconds'] / 60:.0f} minutes. Redis: {found['redis_bytes_per_customer']:,} bytes "
        "per customer.\n"
    )
    who = [name for name in last if name != "seconds"]
    yield _table(
        ("", "MB at the end", "gained since a fifth of the time", "at most"),
        [(w, f"{last[w]:.0f}", found["growth_mb"][w], found["peak_mb"][w]) for w in who],
    )
    yield "Latency at the end of it:\n"
    yield _latency_table([found["latency"]])


def _workers(found: Found) -> Iterator[str]:
    own = found["cores_of_workers"]
    shared = own == 1
    yield "## Two workers against one\n"
    keys = ("us", "us_kafka", "us_valkey")
    yield _table(
        ("", "CPU s per million events", "Kafka", "Redis", "events/s of wall time", "partitions"),
        [
            (name, *(f"{found[name][key]:.2f}" for key in keys),
             f"{found[name]['per_wall_second']:,.0f}", " + ".join(map(str, found[name]["share"])))
            for name in ("one", "two")
        ],
    )  # fmt: skip
    yield (
        f"Two workers need {found['two']['us'] / found['one']['us']:.2f} times the CPU of one per "
        f"event, so on cores of their own two do {found['cpu_ratio']:.2f} times the work of one, "
        "as long as Kafka and Redis keep up. "
        + (
            "Here both shared one core, the servers had the other; so wall time says nothing "
            "about two."
            if shared
            else f"Measured here, on {own} cores: {found['wall_ratio']:.2f} times in wall time."
        )
        + "\n"
    )


def _peers(found: Found) -> Iterator[str]:
    yield "## Beside others, on the same work\n"
    measured = [r for r in found["results"] if "us_cpu" in r]
    rounds = max((len(r["us_cpu_of_rounds"]) for r in measured), default=1)
    yield (
        f"Measured on {found['date'][:10]} by `python -m benchmarks peers`"
        + (f"; {rounds} turns each, of every figure the lower median" if rounds > 1 else "")
        + ".\n"
    )
    rows = []
    for r in measured:
        ms = (f"{v:,.0f}" if (v := r.get(k)) is not None else "–" for k in ("p50_ms", "p99_ms"))
        name = f"{r['peer']}, {r['tuned']}".removesuffix(", ")
        cpu, turns = f"{r['us_cpu']:,.1f}", r["us_cpu_of_rounds"]
        spread = f"{min(turns):,.1f} to {max(turns):,.1f}"
        rows.append((name, r["traffic"], r["delivery"], cpu, spread, *ms))
    head = ("", "traffic", "delivery", "CPU s per million events", "its turns", "p50, ms", "p99")
    yield _table(head, rows)
    for t in found.get("targets", []):
        reached = "reached" if t["reached"] else "**not reached**"
        yield f"- {t['traffic']}: {t['words']}: {t['ratio']:.1f} × ours, wanted ≥ {t['least']:.2g}: {reached}"  # noqa: E501
    yield ""


SECTIONS: dict[str, Callable[[Any], Iterator[str]]] = {
    "end_to_end": _end_to_end,
    "stages": _stages,
    "latency": _latency_tables,
    "workers": _workers,
    "memory": _memory,
    "peers": _peers,
}
METHOD = """\
## Method

- **Where**: the segmenter is pinned to one core with all its threads; Kafka, Redis (Valkey, with
  `appendonly yes`, `appendfsync everysec`, `auto-aof-rewrite-min-size 512mb`), the sender and the
  reader share the others. Kafka is one node with 4 partitions, with the heap and collector that its
  documentation advises for production (the servers of the demo and of tests start sooner instead).
  CPU time is that of the whole process, in steps of 10 ms; it says more than wall time where others
  use the machine too.
- **Events**: Segment Spec calls of about 300 bytes: 60 % Product Viewed, 25 % Product Added, 12 %
  Order Completed, 3 % Order Refunded; preset `retail`. Customers come by Zipf's law, exponent 0.7
  (flat) or 1.1 (hot).
- **Customers**: all have a State and a segment before anything is counted. 20,000 of them (with
  `--quick`: 2,000) have lived through 85 days in the core, with 32 events each on average; the
  others are copies under names of their own, by rank, written to Redis with the segmenter's own
  code.
- **Changes**: the share of events that lead to one is shown, because each costs CPU. The past is so
  long that it is about that of shops, which have 0.2 to 0.35 changes per customer and month at
  about 16 events ([quality.md](quality.md)): 1 to 2 %.
- **Ticks**: some events for each partition, hours later; everybody whose minute has come by then is
  evaluated.
- **Latency**: each event has a time at which it is due, and is sent in the first turn of the sender
  after it (every 4 ms), whatever became of those before; the sender is idempotent, as is usual, and
  so has at most five requests under way. The latency of a change is the time at which a
  `read_committed` consumer in a process of its own (`fetch.wait.max.ms = 5`) has it in hand, less
  the time at which the event was due that it names. The first 10 s of each rate are left out, and
  before all of them come three minutes at 2,000 events/s, in which the broker's Java compiles, on
  the core that it shares with all but the segmenter. p99.9 is shown where at least one change is
  expected beyond it.
- **Highest rate**: what is done in a second while a sender keeps 20,000 events under way.
- **Start**: from the start of the process, with events waiting in the log, until the first batch is
  published and written; looked at every 5 ms.
- **Redis per customer**: rise of `used_memory` by writing the customers, over their number.
- By hand: `make bench` (about 30 minutes), `make bench ARGS=--quick` (does it hold?), and each part
  alone: `python -m benchmarks end-to-end`, `stages`, `latency`, `workers`, `memory`.
"""


def write(found: Found, folder: Path) -> None:
    """performance.json, and performance.md made from it (and from peers.json, if it is there)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "performance.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "performance.md").write_text(page(with_peers(found, folder)))


def with_peers(found: Found, folder: Path) -> Found:
    """The figures, and those of the peers beside them: `python -m benchmarks peers --json`."""
    peers = folder / "peers.json"
    return {**found, "peers": json.loads(peers.read_text())} if peers.exists() else found
