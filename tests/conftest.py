"""What must be in place before the first test module is imported."""

import os
import warnings

os.environ.setdefault("MPLBACKEND", "Agg")

if "PYTEST_XDIST_WORKER" not in os.environ:
    # ArviZ 0.23 writes a date into the user's cache folder when first imported on a day, and two
    # processes doing that at once collide. So it is imported here, before the workers start.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz  # noqa: F401
