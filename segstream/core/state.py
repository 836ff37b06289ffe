"""A customer's State: an array item of fixed size, and its bytes.

The head is whose it is, which segment it has, and the ids of its newest events; then the rings of
`window.py`, one per measure. Every part: `schemas/redis-state.md`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segstream.core import expression
from segstream.core.batch import Ints
from segstream.core.config import FOLD_VERSION, Definition
from segstream.core.expression import Recency, Window
from segstream.core.hash import customer_hash
from segstream.core.packing import pack, unpack

RING = 16
"""Accepted message ids that a customer's State remembers."""

States = npt.NDArray[Any]  # structured array of Layout.dtype


class Foreign(ValueError):
    """Bytes that are no State of this configuration. The message may reach logs: no customer."""

    def __init__(self, customer: str, what: str) -> None:
        name = f"the State of the customer with hash {customer_hash(customer):016x}"
        super().__init__(f"{name} {what}: it was not written under this configuration")


class Layout:
    """Where everything is in a State. Compiled from the Definition; immutable."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.pane_ms = definition.pane.ms
        columns = definition.columns().values()
        self.terms = {t for c in columns for t in expression.terms(expression.parse(c.expression))}
        """Terms of the expressions: what no expression asks for has no place."""
        windows = [t for t in self.terms if isinstance(t, Window)]
        self.panes = max(t.length for t in windows) // self.pane_ms
        used = {t.measure for t in windows}
        measures = definition.measures
        kinds = {n: m.kind for n, m in measures.items()}
        self.counts = [n for n in measures if n in used and kinds[n] == "count"]
        self.sums = [n for n in measures if n in used and kinds[n] == "sum"]
        self.bits = [n for n in measures if n in used and kinds[n] == "distinct"]
        recent = {t.measure for t in self.terms if isinstance(t, Recency)}
        self.recencies = [n for n in measures if n in recent]
        self.lasts = [n for n in measures if kinds[n] == "last"] + list(definition.traits)
        self.blocks = {
            "counts": self.counts,
            "sums": self.sums,
            "bits": self.bits,
            "seen": self.recencies,
            "lasts": self.lasts,
            "lasts_at": self.lasts,
        }
        """Fields of a State with an entry per measure or trait, and which these are, in order."""
        self.dtype = self._dtype()
        written = repr((FOLD_VERSION, self.dtype.descr)).encode()
        self.id = int.from_bytes(hashlib.sha256(written).digest()[:4])

    @property
    def head_bytes(self) -> int:
        """Of a State, what stands before the rings and is the same in all layouts."""
        return int(self.dtype.fields["ids"][1]) + self.dtype["ids"].itemsize  # type: ignore[index]

    def _dtype(self) -> np.dtype[Any]:
        measures = self.definition.measures
        width = max((len(measures[name].values) for name in self.bits), default=1)
        bits = next(f"<u{size}" for size in (1, 2, 4, 8) if width <= 8 * size)
        shapes = [
            ("counts", "<u2", (len(self.counts), self.panes)),
            ("sums", "<u4", (len(self.sums), self.panes)),
            ("bits", bits, (len(self.bits), self.panes)),
            ("seen", "<i8", (len(self.recencies),)),
            ("lasts", "<f8", (len(self.lasts),)),
            ("lasts_at", "<i8", (len(self.lasts),)),
        ]
        head: list[Any] = [
            ("layout", "<u4"),
            ("accepted", "<u4"),
            ("hash", "<u8"),
            ("last", "<i8"),
            ("since", "<i8"),
            ("pending_since", "<i8"),
            ("segment", "<u4"),
            ("pending", "<u4"),
            ("stamp", "<u4"),
            ("sequence", "<u4"),
            ("pane", "<i8"),
            ("ids", "<u8", (RING,)),
        ]
        return np.dtype(head + [shape for shape in shapes if shape[2][0]])

    def unpack(self, blobs: Sequence[bytes | None], customers: Sequence[str]) -> States:
        """States of customers, writable; an empty State where there is no blob.

        Foreign for bytes of another layout.
        """
        raw, wrong = unpack(blobs, self.dtype.itemsize)
        if wrong >= 0:
            raise Foreign(customers[wrong], "is not a packed State of this size")
        states = raw.view(self.dtype)[:, 0]
        if absent := [i for i, blob in enumerate(blobs) if blob is None]:
            states["layout"][absent] = self.id
            states["hash"][absent] = [customer_hash(customers[i]) for i in absent]
            self.reset(states, np.array(absent))
        if len(states) and (states["layout"] != self.id).any():
            wrong = int(np.flatnonzero(states["layout"] != self.id)[0])
            raise Foreign(customers[wrong], "has another layout id")
        return states

    def pack(self, states: States, which: Ints | None = None) -> list[bytes]:
        """The bytes of each State, or of some of them."""
        raw = np.ascontiguousarray(states).view(np.uint8).reshape(len(states), self.dtype.itemsize)
        return pack(raw, np.arange(len(states)) if which is None else which)

    def reset(self, states: States, where: Ints) -> None:
        """Make States empty again, keeping whose they are."""
        kept = states["hash"][where]
        states[where] = np.zeros(1, self.dtype)[0]
        states["layout"][where] = self.id
        states["hash"][where] = kept
        for name in ("last", "seen", "lasts_at"):
            if name in (self.dtype.names or ()):
                states[name][where] = -1
