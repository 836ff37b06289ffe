"""Puts what the core computed beside what the oracle says: outputs, Checkpoint, States."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from segstream.core.output import Output, ms_text
from segstream.core.step import Function
from tests.harness import Run
from tests.oracle import Oracle
from tests.oracle import Output as Expected
from tests.streams import Record

#: Rounded to 6 digits, so a last bit may show; all else is equal.
ROUNDED = {"share", "distance", "from", "to"}


def problems(run: Run, oracle: Oracle, records: Sequence[Record]) -> list[str]:
    """Every difference between the core and the oracle after the same records; [] = equal."""
    return [
        *output_problems(run.outputs, oracle.outputs),
        *letter_problems(run.outputs, records),
        *checkpoint_problems(run, oracle),
        *state_problems(run, oracle),
    ]


# --- outputs --------------------------------------------------------------------------------


def output_problems(outputs: Sequence[Output], wanted: Sequence[Expected]) -> Iterator[str]:
    """The same records in the same order, whatever the topic."""
    if len(outputs) != len(wanted):
        yield f"{len(outputs)} outputs ≠ {len(wanted)}"
    for number, (mine, theirs) in enumerate(zip(outputs, wanted, strict=False)):
        yield from differences(said(mine), expected(theirs), f"output {number} ({mine.topic})")


def said(output: Output) -> dict[str, Any]:
    """An output of the core in the oracle's form."""
    headers = dict(output.headers)
    letter = output.topic == "dead_letters"
    ce_id = headers.get("ce_id") if output.topic == "changes" else None
    reason = headers.get("segstream.errors.reason")
    return {
        "topic": output.topic,
        "key": None if letter or output.key is None else output.key.decode(),
        "value": None if letter or output.value is None else json.loads(output.value),
        "position": tuple(output.position),
        "ce_id": None if ce_id is None else ce_id.decode(),
        "reason": None if reason is None else reason.decode(),
    }


def expected(output: Expected) -> dict[str, Any]:
    """An output of the oracle; what a dead letter holds is `letter_problems`' affair."""
    letter = output.topic == "dead_letters"
    return {
        "topic": output.topic,
        "key": None if letter else output.key,
        "value": None if letter else output.value,
        "position": tuple(output.position),
        "ce_id": output.ce_id,
        "reason": output.reason,
    }


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two JSON values differ: distances and shares by more than 1e-5, all else at all."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = left.keys() | right.keys()
        return [
            d
            for key in sorted(keys)
            for d in differences(left.get(key, "-"), right.get(key, "-"), f"{path}.{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    is_rounded = path.rpartition(".")[2] in ROUNDED
    if is_rounded and isinstance(left, int | float) and isinstance(right, int | float):
        return [] if abs(left - right) <= 1e-5 else [f"{path}: {left} ≠ {right}"]
    return [] if left == right else [f"{path}: {left!r} ≠ {right!r}"]


def letter_problems(outputs: Iterable[Output], records: Sequence[Record]) -> Iterator[str]:
    """A dead letter is the record as it came, with where it stood."""
    by_offset = {record.offset: record for record in records}
    for output in outputs:
        if output.topic != "dead_letters":
            continue
        found = {n.removeprefix("segstream.errors."): v for n, v in output.headers}
        record = by_offset[int(found["offset"] or b"")]
        came = list(record.headers or [])
        kept = [header for header in output.headers if not header[0].startswith("segstream.")]
        at = ms_text(record.append_time).encode()
        if (output.value, kept, found["at"]) != (record.value, came, at) or not found["message"]:
            yield f"dead letter of offset {record.offset}: {output} ≠ {record}"


# --- Checkpoint and States ------------------------------------------------------------------


def checkpoint_problems(run: Run, oracle: Oracle) -> list[str]:
    mine = run.checkpoint
    found = {
        "position": tuple(mine.position),
        "model": mine.model,
        "born": list(mine.born),
        "level": mine.level,
        "counts": mine.counts,
        "changes": mine.changes,
        "customers": mine.customers,
        "segments": mine.segments,
    }
    return differences(found, oracle.checkpoint(), "Checkpoint")


def state_problems(run: Run, oracle: Oracle) -> Iterator[str]:
    """Every field of every State, and the minute index beside them."""
    states, wanted = run.states(), oracle.states()
    if missing := states.keys() ^ wanted.keys():
        yield f"one has a State, the other none: {sorted(missing)}"
    for customer in states.keys() & wanted.keys():
        found = state_of(run.function, customer, states[customer])
        kept = as_kept(run.function, wanted[customer])
        yield from differences(found, kept, f"State of {customer}")
    period = run.function.definition.tick.minutes
    index = {(minute, c) for minute, cs in run.store.minutes.get(0, {}).items() for c in cs}
    hashes = {(state["hash"] % period, customer) for customer, state in wanted.items()}
    if index != hashes:
        yield f"minute index: {sorted(index ^ hashes)}"


def state_of(function: Function, customer: str, blob: bytes) -> dict[str, Any]:
    """A State's bytes, in the oracle's form."""
    layout = function.layout
    (state,) = layout.unpack([blob], [customer])
    pane, accepted = int(state["pane"]), int(state["accepted"])
    panes: dict[str, dict[int, int]] = {}
    for block, names in (("counts", layout.counts), ("sums", layout.sums), ("bits", layout.bits)):
        for i, name in enumerate(names):
            ring = enumerate(state[block][i].tolist())
            panes[name] = {pane - (pane - slot) % layout.panes: v for slot, v in ring if v}
    return {
        "hash": int(state["hash"]),
        "last": int(state["last"]),
        "pane": pane,
        "accepted": accepted,
        "segment": int(state["segment"]) or None,
        "pending": int(state["pending"]) or None,
        "pending_since": int(state["pending_since"]) if state["pending"] else None,
        "stamp": int(state["stamp"]) or None,
        "sequence": int(state["sequence"]),
        "since": int(state["since"]) if state["segment"] else None,
        "ids": [int(state["ids"][i % 16]) for i in range(max(0, accepted - 16), accepted)],
        "panes": panes,
        "values": {
            name: (float(state["lasts"][i]), int(state["lasts_at"][i]))
            if state["lasts_at"][i] >= 0
            else None
            for i, name in enumerate(layout.lasts)
        },
        "recency": {
            name: int(state["seen"][i]) if state["seen"][i] >= 0 else None
            for i, name in enumerate(layout.recencies)
        },
    }


def as_kept(function: Function, state: Mapping[str, Any]) -> dict[str, Any]:
    """The oracle's state without what no expression asks for: the layout does not keep it."""
    layout = function.layout
    kept = {name: value for name, value in state.items() if name != "written"}
    kept["pane"] = state["written"] // layout.pane_ms
    rings = [*layout.counts, *layout.sums, *layout.bits]
    kept["panes"] = {name: state["panes"][name] for name in rings}
    kept["recency"] = {name: state["recency"][name] for name in layout.recencies}
    return kept
