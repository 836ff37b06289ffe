"""What became of segments, against the definitions spelt out; and how it is told."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core.lifecycle import fates, retire, told, told_retired
from segstream.core.record import Fate, ModelSegment, Retired


def moved(*flows: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Customers by (older id, newer id, how many)."""
    before, after, counts = np.array(flows).T
    return np.repeat(before, counts), np.repeat(after, counts)


def kinds(known: set[int], *flows: tuple[int, int, int]) -> dict[int, str]:
    return {s: fate.kind for s, fate in fates(*moved(*flows), known).items()}


class TestKinds:
    def test_survives_with_half_of_its_members(self) -> None:
        assert kinds({1}, (1, 1, 50), (1, 2, 24), (1, 3, 26))[1] == "survived"

    def test_has_shifted_with_fewer(self) -> None:
        # 49 stay, and no other part is large enough for a split
        flows = ((1, 1, 49), (1, 2, 17), (1, 3, 17), (1, 4, 17), (2, 2, 90), (3, 3, 9), (4, 4, 9))
        assert kinds({1, 2, 3, 4}, *flows)[1] == "shifted"

    def test_splits_into_two_large_parts(self) -> None:
        assert kinds({1}, (1, 1, 55), (1, 2, 25), (1, 3, 20)) == {
            1: "split",
            2: "split",
            3: "born",
        }

    def test_parts_that_cover_too_little_are_no_split(self) -> None:
        flows = ((1, 1, 54), (1, 2, 25), (1, 3, 21))
        assert kinds({1}, *flows) == {1: "survived", 2: "born", 3: "born"}

    def test_merges_two_whole_segments(self) -> None:
        assert kinds({1, 2}, (1, 1, 80), (1, 3, 20), (2, 1, 30), (2, 3, 10))[1] == "merged"

    def test_a_segment_that_takes_a_part_of_another_survives(self) -> None:
        """The small one fell in two; that says nothing about the large ones that took it."""
        flows = ((1, 1, 500), (2, 2, 500), (3, 1, 5), (3, 2, 4))
        assert kinds({1, 2, 3}, *flows)[2] == "survived"

    def test_unknown_customers_count_as_members_but_come_from_nowhere(self) -> None:
        found = fates(*moved((0, 1, 60), (1, 1, 40)), {1})[1]
        assert (found.parents, found.overlaps) == ([(1, 0.4)], [(1, 1.0)])

    def test_the_first_version_is_born(self) -> None:
        assert fates(*moved((0, 1, 3), (0, 2, 3)), set()) == {
            1: Fate(kind="born", parents=[]),
            2: Fate(kind="born", parents=[]),
        }

    @given(
        st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), min_size=1, max_size=60),
        st.sets(st.integers(1, 6)),
    )
    def test_by_the_definitions(self, customers: list[tuple[int, int]], known: set[int]) -> None:
        before, after = np.array(customers).T
        found = fates(before, after, known)
        flows, olds = Counter(customers), Counter(old for old, _ in customers if old)
        news = Counter(new for _, new in customers)
        assert found.keys() == news.keys()

        def overlap(old: int, new: int) -> float:
            return flows[old, new] / olds[old]

        def falls_apart(old: int) -> bool:
            parts = [p for p in (overlap(old, n) for n in news) if p >= 0.25]
            return len(parts) > 1 and sum(parts) >= 0.8 - 1e-9

        for new, fate in found.items():
            whole = [old for old in olds if overlap(old, new) >= 0.5]
            kept = new in known and new in olds and overlap(new, new) >= 0.5
            origins = [new] if new in known else list(olds)
            part = any(
                old in olds and falls_apart(old) and overlap(old, new) >= 0.25 for old in origins
            )
            expected = (
                "merged" if len(whole) > 1 else "split" if part
                else "survived" if kept else "shifted" if new in known else "born"
            )  # fmt: skip
            assert fate.kind == expected
            for pairs, exact in (
                (fate.overlaps, {old: overlap(old, new) for old in olds}),
                (fate.parents, {old: flows[old, new] / news[new] for old in olds}),
            ):
                large = {old: share for old, share in exact.items() if share >= 0.05}
                assert dict(pairs) == pytest.approx(large, abs=1e-6)
                assert [share for _, share in pairs] == sorted((s for _, s in pairs), reverse=True)


def segment(number: int, fate: Fate | None) -> ModelSegment:
    return ModelSegment(
        segment=number, name=f"s{number}", named_by="profile", centre=[0.0], size=1, share=1.0,
        profile={}, fate=fate,
    )  # fmt: skip


class TestWords:
    def told(self, number: int, known: set[int], *flows: tuple[int, int, int]) -> str:
        return told(segment(number, fates(*moved(*flows), known)[number]), {1: "lapsed"})

    def test_of_every_kind(self) -> None:
        survived = self.told(1, {1}, (1, 1, 93), (1, 2, 7))
        assert survived == "survived (93 % of its members stayed)"
        shifted = self.told(1, {1}, (1, 1, 31), (1, 2, 23), (1, 3, 23), (1, 4, 23))
        assert shifted == "shifted (only 31 % of its members stayed)"
        assert self.told(1, {1}, (1, 1, 60), (1, 2, 40)) == "split (60 % of its members stayed)"
        part = self.told(2, {1}, (1, 1, 60), (1, 2, 40))
        assert part == "split off from lapsed (40 % of its members)"
        merged = self.told(2, {1, 2}, (1, 2, 80), (1, 3, 20), (2, 2, 100))
        assert merged == "merged from segment 2 (100 %) and lapsed (80 %)"
        born = self.told(2, {1}, (1, 1, 90), (1, 2, 10), (0, 2, 10))
        assert born == "born (50 % of its members come from lapsed)"
        assert self.told(2, set(), (0, 2, 1)) == "born"

    def test_of_versions_that_tell_less(self) -> None:
        assert told(segment(1, None)) == ""
        assert told(segment(1, Fate(kind="survived", parents=[(1, 0.9)]))) == "survived"
        assert told(segment(1, Fate(kind="shifted", parents=[]))) == "shifted"
        assert told(segment(1, Fate(kind="split", parents=[]))) == "split"
        assert told(segment(1, Fate(kind="merged", parents=[]))) == "merged"
        assert told_retired(Retired(segment=1, name="a")) == "ended"
        assert told_retired(Retired(segment=1, name="a", heir=3)) == "ended in segment 3"

    @pytest.mark.parametrize(
        ("flows", "heir", "expected"),
        [
            ([(1, 2, 79), (1, 3, 21)], 2, "absorbed by big-basket (79 % of its members)"),
            ([(1, 2, 71), (1, 3, 29)], 2, "split into big-basket (71 %) and segment 3 (29 %)"),
            ([(1, 2, 60), (1, 3, 40)], 2, "split into big-basket (60 %) and segment 3 (40 %)"),
            (
                [(1, 2, 40), (1, 3, 24), (1, 4, 24), (1, 5, 12)],
                2,
                "dissolved (most, 40 %, into big-basket)",
            ),
            ([(2, 2, 5)], None, "ended"),
        ],
    )
    def test_of_the_end(
        self, flows: list[tuple[int, int, int]], heir: int | None, expected: str
    ) -> None:
        ended = retire(segment(1, None), *moved(*flows))
        assert ended.heir == heir
        assert told_retired(ended, {2: "big-basket"}) == expected
