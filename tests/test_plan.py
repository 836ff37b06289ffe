"""The faults of a soak are a function of its seed."""

from itertools import islice

from tests.faults.plan import WEIGHTS, faults


def test_the_same_seed_gives_the_same_faults() -> None:
    first, second, other = (list(islice(faults(seed), 300)) for seed in (7, 7, 8))
    assert first == second != other
    assert {fault.kind for fault in first} == WEIGHTS.keys()
