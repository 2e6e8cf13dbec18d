"""In the peers' environment: the seed's models in PyMC, all in its default, double precision.

Each takes the arrays of the file that its script is given, and stands inside of a model.
"""

import logging
import os

# PyMC is up to three times as fast so, on cores that others use as well.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import pymc as pm

logging.getLogger("pymc").setLevel("ERROR")
BATCH = 500


def mixture():
    pm.NormalMixture("x", w=np.array([0.2, 0.8]), mu=np.array([-0.3, 0.5]), sigma=0.1)


def full(data):
    wide_normal(data.shape[1], observed=data)


def minibatch(data):
    batch = pm.Minibatch(data, batch_size=BATCH)
    wide_normal(data.shape[1], observed=batch, total_size=len(data))


def wide_normal(columns, **likelihood):
    mu, sd = pm.Flat("mu", shape=columns), pm.HalfNormal("sd", shape=columns)
    pm.Normal("lik", mu, sd, **likelihood)


def iris(X, y):
    p = iris_probabilities(X)
    pm.Categorical("y", p=p, observed=y)


def iris_probabilities(X):
    beta = pm.Normal("beta", 0, 100, shape=(4, 3))
    return pm.math.softmax(X @ beta + pm.Flat("intercept", shape=3), axis=-1)


MODELS = {"mixture": mixture, "full": full, "minibatch": minibatch, "iris": iris}


def build(name, path):
    """A model with its data, an .npz file."""
    with np.load(path) as file:
        data = [file[key] for key in file.files]
    data = [x.astype(float) if x.dtype.kind == "f" else x for x in data]
    with pm.Model() as model:
        MODELS[name](*data)
    return model
