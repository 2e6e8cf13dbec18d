"""In the peers' environment: SVGD of PyMC, some steps whenever a line comes in.

The arguments are ``mixture`` or ``iris``, the number of particles, that of steps, and for Iris a
file with the data. The step is compiled once, before the first line.
"""

import sys

import numpy as np
import pymc as pm
from _pymc_seed import iris_probabilities
from _pymc_seed import mixture as mixture_model

name, n_particles, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def mixture():
    """The step, and nothing that watches it."""
    with pm.Model():
        mixture_model()
        svgd = pm.SVGD(n_particles=n_particles, random_seed=0)
        return svgd.objective.step_function(obj_optimizer=pm.sgd(learning_rate=0.01)), None


def iris():
    """The step, and a tracker of the accuracies as in PyMC3's tutorial."""
    data = np.load(sys.argv[4])
    with pm.Model():
        X = pm.Data("X", data["X"])
        p = iris_probabilities(X)
        pm.Categorical("y", p=p, observed=data["y"])
        svgd = pm.SVGD(n_particles=n_particles, jitter=1, random_seed=0)
        replaced = {X: data["X_test"]}
        test = svgd.approx.sample_node(p, more_replacements=replaced, size=100)
        train = svgd.approx.sample_node(p)
        tracker = pm.variational.callbacks.Tracker(
            test=pm.math.eq(test.argmax(-1), data["y_test"]).mean(-1).eval,
            train=pm.math.eq(train.argmax(-1), data["y"]).mean(-1).eval,
        )
        optimizer = pm.adamax(learning_rate=0.1)
        return svgd.objective.step_function(obj_optimizer=optimizer), tracker


step, tracker = {"mixture": mixture, "iris": iris}[name]()
for _ in sys.stdin:
    for _ in range(steps):
        step()
        if tracker is not None:
            tracker(None, None, 0)
    found = "" if tracker is None else f"test accuracy {np.mean(tracker['test'][-1]):.3f}"
    print("done", found, flush=True)
