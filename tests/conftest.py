"""Settings of all tests."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import servers, unique

__all__ = ["servers", "unique"]

# No deadlines: a busy machine is no bug. In CI the examples are the same in every run.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("here", UNHURRIED)
settings.register_profile("ci", UNHURRIED, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell starts its background jobs with SIGINT ignored, and children would inherit that: tests
# that interrupt one, as a terminal does, must find what a terminal finds.
signal.signal(signal.SIGINT, signal.default_int_handler)

GROUPS = {**dict.fromkeys(("contract", "faults", "integration"), "servers"), "simulation": "chunks"}
"""Directories whose tests share what is dear to make: servers, or schedules under way."""


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run side by side, tests of a group stay with one process, which makes that once."""
    here = Path(__file__).parent
    for item in items:
        if group := GROUPS.get(item.path.relative_to(here).parts[0]):
            item.add_marker(pytest.mark.xdist_group(group))
