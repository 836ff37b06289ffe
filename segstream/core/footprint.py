"""What a customer takes of Redis's memory."""

from typing import NamedTuple

from segstream.core.demand import Configured, Measured


class Footprint(NamedTuple):
    """Bytes of one customer: its State as it is and as allocated, its key, and what goes with
    them."""

    state: int
    value: int
    key: int
    entry: int
    member: int

    @property
    def bytes(self) -> int:
        return self.value + self.key + self.entry + self.member

    def __str__(self) -> str:
        return (
            f"State {self.state} → {self.value} as the allocator rounds it (ring of message ids "
            f"included) + key {self.key} + entry {self.entry} + place in its minute {self.member}"
        )


def footprint(configured: Configured, measured: Measured, id_bytes: int) -> Footprint:
    """With many customers: neither the first few nor what a partition has once are counted."""
    key = len(f"{configured.namespace}:{{999}}:c:") + id_bytes
    return Footprint(
        configured.state_bytes,
        allocated(configured.state_bytes + 6),  # with the header of a string of Redis
        allocated(key + 4),
        measured.entry_bytes,
        allocated(id_bytes + 2) + measured.member_bytes,
    )


def allocated(size: int) -> int:
    """Bytes that jemalloc gives for so many: four sizes from each power of two to the next."""
    step = 16 if size <= 128 else 1 << ((size - 1).bit_length() - 3)
    return -(-size // step) * step
