"""The planted bugs still fit the code; `make mutants` shows that each is caught."""

from pathlib import Path

import pytest

from tests.mutants.__main__ import PATCHES, ROOT, applied


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.stem)
def test_a_planted_bug_fits(patch: Path) -> None:
    assert applied(patch, ROOT, only_check=True), "change the patch along with the line it changes"


def test_there_are_enough_of_them() -> None:
    assert len(PATCHES) >= 12
