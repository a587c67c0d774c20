"""What every test shares: nothing of the caller's AWS account, and the fixtures of tests/support.

Here belong settings of the whole suite. Fixtures of one subject live beside its tests; those of many in tests/support, one module
a subject, loaded below as plugins.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.support.cloud", "tests.support.postgres", "tests.permissions.passed"]

# A test that forgets to say which account it means must reach none: not the caller's profile, not an instance's role.
for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
    os.environ.pop(name, None)
for name in [name for name in os.environ if name.startswith("MONAI_AWS_")]:
    os.environ.pop(name)
os.environ |= {
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "DAGSTER_DISABLE_TELEMETRY": "1",
}

# A run that was started in the background ignores Ctrl-C, and so would every process that a test starts to see what Ctrl-C does to it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast a property holds is the machine's affair, and machines of continuous integration are slow now and then. The examples of a
# test are the same in every run, so that what passed once says something of the next run; new ones are looked for on purpose, with
# ``--hypothesis-profile=searching``.
settings.register_profile("searching", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("patient", settings.get_profile("searching"), derandomize=True, database=None)
settings.load_profile("patient")
