"""Without any one of its guards, the protocol breaks: see guards.py."""

import pytest

from tests.simulation.guards import GUARDS, REST, SCHEDULES, Guard, refusals, seen
from tests.simulation.schedule import outcome
from tests.simulation.unguarded import OtherPartitioner


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_the_guard_its_invariant_breaks(guard: Guard) -> None:
    assert seen(guard), f"no violation of {guard.broken!r} in {SCHEDULES} schedules"


@pytest.mark.parametrize(
    "guard", [guard for guard in GUARDS if guard.refuses], ids=lambda guard: guard.name
)
def test_with_the_guard_the_same_mishap_is_refused(guard: Guard) -> None:
    said = list(refusals(guard))
    assert any(guard.refuses in text for text in said), said


def test_calls_that_go_round_in_circles_become_dead_letters() -> None:
    """Two workers that disagree about the partitioner come to rest, because hops are counted."""
    (guard,) = [guard for guard in GUARDS if guard.name == "hops"]
    letters = []
    for number in range(10):
        world, wrong = outcome(guard.plan(number), OtherPartitioner)
        assert not [text for text in wrong if REST in text], f"seed {number}"
        letters += [dict(o.headers) for o in world.log.outputs if o.topic == "dead_letters"]
    assert any(b"3 times" in (letter["segstream.errors.message"] or b"") for letter in letters)
