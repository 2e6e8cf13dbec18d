"""In the peers' environment: one fit whenever a line comes in, its moments as a line of JSON.

The arguments are the method, the model, a file with the model's arguments and the number of steps.
Each line is a seed, but for the first, which is answered when everything is imported. Seconds
include compiling, which PyMC does for each fit.
"""

import json
import logging
import os
import sys
import time

# PyMC is up to three times as fast so, on cores that others use as well.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import pymc as pm
from _pymc_models import MODELS
from pymc_extras.inference.advi import Trainer

logging.getLogger("pymc").setLevel("ERROR")
method, name, path = sys.argv[1:4]
steps = int(sys.argv[4])
with np.load(path) as file:  # it is gone once the first line is answered
    arguments = [file[key] for key in file.files]


def build():
    with pm.Model() as model:
        MODELS[name](*arguments)
    return model


def pymc(model, seed):
    """`pm.fit` with its defaults: flat mean and covariance, and where each site is."""
    with model:
        approx = pm.fit(steps, method.removeprefix("pymc_"), progressbar=False, random_seed=seed)
    # under the names of value variables, such as sigma_log__
    names = {value.name: rv.name for rv, value in model.rvs_to_values.items()}
    where = {names[key]: part[1] for key, part in approx.ordering.items()}
    return approx.mean.eval(), approx.cov.eval(), where


def extras(model, seed):
    """What `fit_advi` does, without the draws it ends with: moments are read off the guide."""
    trainer = Trainer(random_seed=seed)
    found = trainer.fit(steps, model=model, random_seed=seed).params
    sites = [rv.name for rv in model.free_RVs]
    sizes = [np.size(found[f"{site}_loc"]) for site in sites]
    ends = np.cumsum(sizes)
    where = {s: slice(end - n, end) for s, n, end in zip(sites, sizes, ends, strict=True)}
    mean = np.concatenate([np.ravel(found[f"{site}_loc"]) for site in sites])
    sd = np.exp(np.concatenate([np.ravel(found[f"{site}_scale"]) for site in sites]))
    return mean, np.diag(sd**2), where


def fit(seed):
    model, began = build(), time.perf_counter()
    try:
        mean, cov, where = (extras if method == "extras_advi" else pymc)(model, seed)
    except FloatingPointError as error:
        return {"failed": str(error), "seconds": time.perf_counter() - began}
    seconds = time.perf_counter() - began
    spans = {site: [int(part.start), int(part.stop)] for site, part in where.items()}
    return {"mean": mean.tolist(), "cov": cov.tolist(), "where": spans, "seconds": seconds}


sys.stdin.readline()
print(pm.__version__, flush=True)
answers, sys.stdout = sys.stdout, sys.stderr  # the trainer writes of its progress
for line in sys.stdin:
    print(json.dumps(fit(int(line))), file=answers, flush=True)
