"""Settings of all tests."""

import os
import signal

from hypothesis import settings

# No deadline: a busy machine is no bug. In CI the examples are the same in every run.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# A shell starts its background jobs with SIGINT ignored, and children would inherit that: tests
# that interrupt one, as a terminal does, must find what a terminal finds.
signal.signal(signal.SIGINT, signal.default_int_handler)
