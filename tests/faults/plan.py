"""What happens in a soak, and when: a function of the seed alone."""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

GAP_SECONDS = 4.0
"""From one fault to the next, on average."""
WORKERS = ("one", "two")
WEIGHTS = {
    "worker killed": 4,
    "worker frozen": 3,
    "worker stopped": 2,
    "worker joins and leaves": 1,
    "trainer killed": 2,
    "trainer frozen": 1,
    "redis killed": 2,
    "redis copied": 1,
    "redis restored": 1,
    "redis wiped": 1,
    "redis full": 1,
    "redis replies lost": 3,
    "redis slow": 1,
    "redis cut": 1,
    "redis deaf": 1,
    "kafka killed": 2,
    "kafka replies lost": 3,
    "kafka slow": 1,
    "kafka cut": 1,
    "kafka deaf": 1,
}
LOST = {
    "redis": (b"EXEC", b"EXEC", b"MGET", b"WATCH", b":meta", b"INFO"),
    # AddOffsetsToTxn, EndTxn, TxnOffsetCommit: API key and first byte of the version.
    "kafka": (b"\x00\x19\x00", b"\x00\x1a\x00", b"\x00\x1a\x00", b"\x00\x1c\x00"),
}
LONGEST = {
    "worker frozen": 12.0,  # twice a session
    "trainer frozen": 12.0,
    "worker joins and leaves": 8.0,
    "redis killed": 3.0,
    "redis full": 3.0,
    "redis slow": 5.0,
    "redis cut": 3.0,
    "redis deaf": 8.0,  # beyond the client's patience of 5 s
    "kafka killed": 3.0,
    "kafka slow": 5.0,
    "kafka cut": 3.0,
    "kafka deaf": 12.0,  # beyond that of a transaction, 10 s
}


class Fault(NamedTuple):
    """`wait` and `lasts` in seconds; `whom`: a slot, a direction, or words."""

    number: int
    wait: float
    kind: str
    lasts: float
    whom: tuple[str | bytes, ...]

    def __str__(self) -> str:
        whom = ", ".join(w if isinstance(w, str) else w.decode("latin-1") for w in self.whom)
        lasts = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.number:4} {self.kind}{lasts} {ascii(whom)[1:-1]}".rstrip()


def faults(seed: int) -> Iterator[Fault]:
    """One after the other, for ever."""
    rng, number = Random(seed), 0
    while True:
        number += 1
        (kind,) = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        wait = min(rng.expovariate(1 / GAP_SECONDS), 5 * GAP_SECONDS)
        lasts = rng.uniform(0, LONGEST.get(kind, 0.0))
        whom: tuple[str | bytes, ...] = ()
        if kind.startswith("worker") and kind != "worker joins and leaves":
            whom = (rng.choice(WORKERS),)
        elif kind.endswith("deaf"):
            whom = (rng.choice(("up", "down")),)
        elif kind.endswith("lost"):
            whom = tuple(rng.choices(LOST[kind.partition(" ")[0]], k=rng.randint(1, 3)))
        yield Fault(number, wait, kind, lasts, whom)
