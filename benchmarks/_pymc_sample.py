"""In the peers' environment: 10,000 draws of the model in using.py, whenever a line comes in."""

import logging
import sys

import numpy as np
import pymc as pm

logging.getLogger("pymc").setLevel("ERROR")

with pm.Model():
    x = pm.Normal("x", 0, 1, shape=150)
    s = pm.HalfNormal("s", 1, shape=50)
    pm.Deterministic("total", x.sum() + s.sum())
    pm.Deterministic("scaled", x[:50] * s)
    pm.Normal("y", x[:50], s, observed=np.ones(50))
    approx = pm.fit(500, random_seed=0, progressbar=False)

for _ in sys.stdin:
    draws = approx.sample(10_000)
    print(pm.__version__, draws["posterior"]["x"].shape, flush=True)
