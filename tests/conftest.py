"""What must be in place before the first test module is imported."""

import os
import warnings

import pytest

os.environ.setdefault("MPLBACKEND", "Agg")

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
