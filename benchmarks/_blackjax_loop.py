"""In the peers' environment: steps of blackjax in a compiled loop, whenever a line comes in.

The arguments are ``svgd`` or the name of a model for mean-field VI, a file with its data, the
number of steps, and for SVGD that of particles. The loop is compiled once, before the first line.
"""

import sys
from functools import partial

import _densities
import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import optax

name, path, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])


def svgd():
    """Particles on the mixture."""
    kernel = blackjax.svgd(jax.grad(_densities.mixture), optax.sgd(0.01))
    particles = 0.34 + jax.random.normal(jax.random.key(0), (int(sys.argv[4]), 1))
    state = kernel.init(particles, {"length_scale": jnp.ones(())})
    return (lambda key, state: kernel.step(state)), state


def mean_field():
    """One draw a step, as the others take."""
    density, ndim = {
        "mixture": (_densities.mixture, 1),
        "full": (_densities.wide_normal, 200),
        "iris": (_densities.softmax_regression, 15),
    }[name]
    with np.load(path) as file:
        data = [jnp.asarray(file[key]) for key in file.files]
    kernel = blackjax.meanfield_vi(partial(density, *data), optax.adam(0.01), num_samples=1)
    return (lambda key, state: kernel.step(key, state)[0]), kernel.init(jnp.zeros(ndim))


step, state = svgd() if name == "svgd" else mean_field()


@jax.jit
def run(key, state):
    return jax.lax.scan(lambda s, k: (step(k, s), None), state, jax.random.split(key, steps))[0]


run = run.lower(jax.random.key(0), state).compile()
for i, _ in enumerate(sys.stdin):
    state = jax.block_until_ready(run(jax.random.key(i), state))
    print("done", flush=True)
