"""Repeated fits must not pile up memory."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import numpyro_vi_ext as vi

pytestmark = pytest.mark.compiles

SCRIPT = """
import gc, os
import numpy as np, numpyro, numpyro.distributions as dist, optax
import numpyro_vi_ext as vi

def model(X, y):
    w = numpyro.sample("w", dist.Normal(0, 3).expand([X.shape[1]]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(X @ w, sd).to_event(1), obs=y)

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

rng = np.random.default_rng(0)
for i in range(1, {last} + 1):
    X, y = rng.normal(size=(500, 20)), rng.normal(size=500)
    approx = vi.fit(
        model, 1000, model_args=(X, y), random_seed=i, progressbar=False,
        obj_optimizer={optimizer}, callbacks=[vi.CheckParametersConvergence(tolerance=1e-9)],
    )
    approx.sample_dict(100)
    if i in ({first}, {last}):
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the size from /proc")
@pytest.mark.parametrize(
    ("optimizer", "first", "last"),
    [("None", 20, 100), ("vi.adam(1e-2)", 20, 100), ("optax.adam(1e-2)", 40, 80)],
)
def test_100_fits_do_not_grow(optimizer, first, last):
    """The optax one is made afresh each time, so that every fit compiles anew.

    That takes longer, so there are fewer; the first 40 fill the cache of compiled steps twice,
    and the gaps in the heap.
    """
    script = textwrap.dedent(SCRIPT).format(optimizer=optimizer, first=first, last=last)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=os.path.dirname(os.path.dirname(vi.__file__)),
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after < 1.05 * before
