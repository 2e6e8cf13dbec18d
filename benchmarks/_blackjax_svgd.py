"""In the peers' environment: SVGD of blackjax on the mixture, whenever a line comes in.

The arguments are the number of particles and the number of steps. The steps are compiled once,
before the first line, as a loop in JAX, which is the fastest way to run them.
"""

import sys

import blackjax
import jax
import jax.numpy as jnp
import optax

n_particles, steps = int(sys.argv[1]), int(sys.argv[2])


def log_density(x):
    parts = jax.scipy.stats.norm.logpdf(x, jnp.array([-0.3, 0.5]), 0.1)
    return jax.nn.logsumexp(parts + jnp.log(jnp.array([0.2, 0.8])))


svgd = blackjax.svgd(jax.grad(log_density), optax.sgd(0.01))


@jax.jit
def run(state):
    return jax.lax.fori_loop(0, steps, lambda _, state: svgd.step(state), state)


particles = 0.34 + jax.random.normal(jax.random.key(0), (n_particles,))
state = svgd.init(particles, {"length_scale": jnp.ones(())})
run = run.lower(state).compile()
for _ in sys.stdin:
    state = jax.block_until_ready(run(state))
    print(blackjax.__version__, state.particles.mean(), flush=True)
