"""Rules for all tests."""

import os

from hypothesis import HealthCheck, settings

# On a fresh checkout the first examples of text cost seconds (Hypothesis builds its table of Unicode), and a busy machine is
# slow: neither says anything about the code.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("relay")

# They need root and a network of their own: `make test-faults` makes one and says so.
collect_ignore = [] if os.environ.get("TEST_FAULTS") else ["namespaces"]
