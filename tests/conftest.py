"""Settings of all tests."""

import os
import signal

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
