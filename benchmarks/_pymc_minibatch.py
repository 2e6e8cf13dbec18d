"""PyMC's ADVI on 40,000 x 100 numbers in minibatches of 500: for each line read, 2,000 steps."""

import sys

import numpy as np
import pymc as pm

STEPS = 2000
data = 10 * np.random.default_rng(0).random((40_000, 100))
batch = pm.Minibatch(data, batch_size=500)
with pm.Model():
    mu = pm.Flat("mu", shape=100)
    sd = pm.HalfNormal("sd", shape=100)
    pm.Normal("lik", mu, sd, observed=batch, total_size=data.shape)
    inference = pm.ADVI()
    inference.fit(10, progressbar=False)
for _ in sys.stdin:
    inference.refine(STEPS, progressbar=False)
    print("done", flush=True)
