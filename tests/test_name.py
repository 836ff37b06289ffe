"""Names: readable, unique, stable."""

from hypothesis import given
from hypothesis import strategies as st

from segstream.core.name import Vocabulary, name_segments

WORDS = Vocabulary(
    [
        ("recency", "recent", "lapsed"),
        ("orders", "", "frequent"),
        ("spend", "low-spend", "big-spending"),
        ("page_views", None, None),
    ]
)


def names(profiles: dict[int, list[float]], known: dict[int, str] | None = None) -> dict[int, str]:
    return name_segments(profiles, WORDS, known or {})


def test_says_the_two_features_furthest_from_the_mean() -> None:
    found = names({1: [-1.0, 2.0, 1.5, 0.6], 2: [1.2, -0.3, 0.0, 0.1], 3: [0.4, 0.4, -0.4, 0]})
    assert found == {1: "frequent, big-spending", 2: "lapsed", 3: "average"}


def test_words_stand_in_the_order_of_features() -> None:
    assert names({1: [0.6, 0.0, 3.0, 0.0]})[1] == "lapsed, big-spending"


def test_a_feature_without_words_is_named_by_its_name() -> None:
    assert names({1: [0, 0, 0, 1.0], 2: [0, 0, 0, -1.0]}) == {
        1: "high page views",
        2: "low page views",
    }


def test_an_empty_word_is_never_said() -> None:
    """Few orders go without saying where people are lapsed."""
    assert names({1: [0.9, -2.0, -0.1, 0.0]})[1] == "lapsed"


def test_contrast_adds_what_differs_most() -> None:
    found = names({1: [1.0, 1.0, 0.1, 0.0], 2: [1.0, 1.0, 0.9, 0.3]})
    assert found == {1: "lapsed, frequent", 2: "lapsed, frequent, big-spending"}


def test_contrast_never_says_what_is_not_so() -> None:
    """Both spend much: the lesser of the two is not called low-spend."""
    found = names({1: [1.0, 3.0, 0.6, 0.0], 2: [1.0, 3.0, 0.9, 0.0]})
    assert found == {1: "lapsed, frequent", 2: "lapsed, frequent, big-spending"}


def test_equal_profiles_are_counted() -> None:
    assert names({1: [1.0, 0, 0, 0], 4: [1.0, 0, 0, 0]}) == {1: "lapsed", 4: "lapsed 2"}


def test_a_name_stays_while_it_is_true() -> None:
    known = {1: "lapsed", 2: "average"}
    assert names({1: [0.3, 2.0, 2.0, 0], 2: [0.8, 0, 0, 0]}, known) == known


def test_a_name_goes_when_it_is_no_longer_true() -> None:
    known = {1: "lapsed", 2: "average"}
    found = names({1: [0.1, 2.0, 2.0, 0], 2: [0, 0, -1.1, 0]}, known)
    assert found == {1: "frequent, big-spending", 2: "low-spend"}


def test_a_newcomer_must_tell_itself_apart_first() -> None:
    found = names({1: [1.5, 0.5, 0, 0], 2: [1.2, 0.1, 0.3, 0]}, {1: "lapsed"})
    assert found == {1: "lapsed", 2: "lapsed, big-spending"}


def test_a_known_segment_gains_a_word_if_the_newcomer_has_none() -> None:
    found = names({1: [1.5, 0.45, 0.1, 0.2], 2: [1.2, 0.1, 0.1, 0.2]}, {1: "lapsed"})
    assert found == {1: "lapsed, frequent", 2: "lapsed"}


def test_words_that_are_no_longer_configured_go() -> None:
    assert names({1: [1.5, 0, 0, 0]}, {1: "sleepers"}) == {1: "lapsed"}


def test_what_a_person_named_stays_and_is_not_given_twice() -> None:
    profiles = {1: [0.0, 3.0, 0, 0], 2: [1.0, 0, 0, 0]}
    found = name_segments(profiles, WORDS, {1: "lapsed"}, {1: "lapsed"})
    assert found == {1: "lapsed", 2: "lapsed 2"}


profile = st.lists(st.sampled_from([-2.0, -0.6, -0.2, 0.0, 0.2, 0.6, 2.0]), min_size=4, max_size=4)


@given(st.dictionaries(st.integers(1, 9), profile, min_size=1, max_size=8))
def test_names_are_unique_and_stay_if_nothing_changes(profiles: dict[int, list[float]]) -> None:
    found = names(profiles)
    assert len(set(found.values())) == len(profiles)
    again = names(profiles, found)
    assert len(set(again.values())) == len(profiles)


@given(
    st.dictionaries(st.integers(1, 6), profile, min_size=1, max_size=6),
    st.dictionaries(st.integers(1, 6), profile, min_size=1, max_size=6),
)
def test_names_are_unique_and_true_after_any_change(
    before: dict[int, list[float]], after: dict[int, list[float]]
) -> None:
    found = names(after, names(before))
    assert len(set(found.values())) == len(after)
    for segment, name in found.items():
        for claim in WORDS.understand(name.rstrip(" 23456")) or ():
            assert claim.strength(after[segment]) > 0
