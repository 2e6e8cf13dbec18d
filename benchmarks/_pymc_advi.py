"""In the peers' environment: ADVI of PyMC or of pymc-extras, some steps whenever a line comes in.

The arguments are the package, the model, a file with its data and the number of steps. The step is
compiled once, before the first line.
"""

import sys

import pymc as pm
from _pymc_seed import build

package, name, path = sys.argv[1:4]
steps = int(sys.argv[4])
answers, sys.stdout = sys.stdout, sys.stderr  # pymc-extras writes of its progress
model = build(name, path)


def pymc():
    with model:
        inference = pm.ADVI(random_seed=0)
        optimizer = pm.adam(learning_rate=0.01)
        inference.fit(10, obj_optimizer=optimizer, progressbar=False)
    return lambda: inference.refine(steps, progressbar=False)


def extras():
    from pymc_extras.inference.advi import Trainer, adam

    trainer = Trainer(optimizer=adam(0.01), random_seed=0)
    trainer.fit(10, model=model)
    return lambda: trainer.fit(steps, model=model)


run = {"pymc": pymc, "pymc-extras": extras}[package]()
for _ in sys.stdin:
    run()
    print("done", file=answers, flush=True)
