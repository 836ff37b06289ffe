"""A part of the year of real orders, as lived, through the core and the oracle: all is equal.

Every thirtieth customer for the whole year: windows fill and empty, customers lapse, are forgotten
and come back, and some fifty versions of the model take effect. `make oracle` does the whole year.
"""

from tests.retail_year import compare, live, small_training

CAUSES = ("first", "behaviour", "time", "model", "forgotten")


def test_a_thirtieth_of_the_customers_lives_the_same_year_in_both() -> None:
    year = live(small_training(), share=30)
    seen = compare(year)
    assert seen.problems == []
    assert all(seen.numbers[f"cause {cause}"] > 20 for cause in CAUSES), seen.numbers
    assert seen.numbers["versions"] > 40
    assert seen.numbers["dead_letters"] > 1_000
