"""What must be in place before the first test module is imported."""

import os
import subprocess
import sys
import warnings

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

# Most of the time of most tests goes into compiling what runs for a moment: without optimisation
# that is three times as fast. XLA ends a process that is given a flag which it does not know.
FOR_A_MOMENT = ("not slow", "slow and compiles")
NOT_OPTIMISED = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Compile without optimisation, but for tests that run for long; before any worker starts."""
    if "PYTEST_XDIST_WORKER" in os.environ or config.option.markexpr not in FOR_A_MOMENT:
        return
    flags = f"{NOT_OPTIMISED} {os.environ.get('XLA_FLAGS', '')}"
    probe = [sys.executable, "-c", "import jax; jax.devices()"]
    known = subprocess.run(probe, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    if known.returncode == 0:
        os.environ["XLA_FLAGS"] = flags


if "PYTEST_XDIST_WORKER" not in os.environ:
    # ArviZ 0.23 writes a date into the user's cache folder when first imported on a day, and two
    # processes doing that at once collide. So it is imported here, before the workers start.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz  # noqa: F401


@pytest.fixture
def compiled():
    """Names of the programs compiled since the start of the test."""
    import jax  # not before the settings above

    names, active = [], [True]

    def listener(event, duration, **info):
        if active and event.endswith("backend_compile_duration"):
            names.append(info.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield names
    active.clear()  # older versions of JAX cannot unregister it
