"""Puts what the core computed beside what the oracle says: outputs, Checkpoint, States."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segstream.core.output import Output
from segstream.core.step import Function
from tests.harness import Replay
from tests.oracle import Oracle
from tests.oracle import Output as Expected

#: Rounded to 6 digits, so a last bit may show; all else is equal.
ROUNDED = {"share", "distance", "from", "to"}
#: Topics of records that go on as they came.
AS_THEY_CAME = ("dead_letters", "events")
#: Errors of a dead letter that the page leaves to the implementation or the deployment.
UNKNOWN = ("message", "topic")


def problems(run: Replay, oracle: Oracle) -> list[str]:
    """Every difference between the core and the oracle after the same records; [] = equal."""
    return [
        *output_problems(run.outputs, oracle.outputs),
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
    headers = output.headers
    whole: dict[str, Any] = {"headers": None, "target": None, "ce_id": None, "reason": None}
    if output.topic in AS_THEY_CAME:
        key: str | bytes | None = output.key
        value: Any = output.value
        whole["headers"] = headers
        if output.topic == "events":
            whole["target"] = output.partition
        else:
            whole["headers"], errors = letter_headers(headers)
            whole["reason"] = errors["reason"].decode()
    else:
        key = None if output.key is None else output.key.decode()
        value = None if output.value is None else json.loads(output.value)
        if output.topic == "changes":
            whole["ce_id"] = (dict(headers)["ce_id"] or b"").decode()
    return {
        "topic": output.topic,
        "key": key,
        "value": value,
        "position": tuple(output.position),
        **whole,
    }


def letter_headers(
    headers: Sequence[tuple[str, bytes | None]],
) -> tuple[list[tuple[str, bytes | None]], dict[str, bytes]]:
    """A dead letter's headers as the oracle has them, and the errors that stand last in them.

    Of message and topic, which the oracle does not know, only the place is judged.
    """
    names = ["reason", "message", "topic", "partition", "offset", "at"]
    if headers[-1][0] == "segstream.errors.size":
        names.append("size")
    came, added = list(headers[: -len(names)]), headers[-len(names) :]
    assert [name for name, _ in added] == [f"segstream.errors.{name}" for name in names]
    errors = {name: value or b"" for name, (_, value) in zip(names, added, strict=True)}
    assert 0 < len(errors["message"].decode()) <= 1_000, errors["message"]
    assert errors["topic"], "no topic"
    kept = [(f"segstream.errors.{name}", errors[name]) for name in names if name not in UNKNOWN]
    return [*came, *kept], errors


def expected(output: Expected) -> dict[str, Any]:
    """An output of the oracle."""
    headers = None if output.headers is None else list(output.headers)
    return {**vars(output), "position": tuple(output.position), "headers": headers}


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
    return [] if left == right else [f"{path}: {left!r:.500} ≠ {right!r:.500}"]


# --- Checkpoint and States ------------------------------------------------------------------


def checkpoint_problems(run: Replay, oracle: Oracle) -> list[str]:
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


def state_problems(run: Replay, oracle: Oracle) -> Iterator[str]:
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
