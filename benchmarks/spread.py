"""What SVGD leaves of the variance of a standard normal, by kernel, particles and dimensions."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from _measure import publish, table

import numpyro_vi_ext as vi

STEPS = 1000
DIMENSIONS, NUMBERS = (1, 2, 5, 10, 20, 50, 100), (50, 200, 1000)
HARD = ((50, 20), (200, 50), (200, 100), (1000, 100))  # particles and dimensions


def normal(d: int) -> None:
    numpyro.sample("z", dist.Normal(0, 1).expand([d]).to_event(1))


def total_variance(particles: jax.Array) -> jax.Array:
    return jnp.sum(jnp.var(particles, axis=0))


KERNELS = {
    "`vi.rbf`, median heuristic": vi.rbf,
    "`vi.imq`, median heuristic": vi.imq,
    "`vi.rbf(total_variance)`": vi.rbf(total_variance),
}


def remains(n: int, d: int, kernel: object = vi.rbf) -> str:
    """The variance of the particles, averaged over the dimensions."""
    options = {"n_particles": n, "kernel": kernel}
    fixed = {"random_seed": 0, "progressbar": False}
    approx = vi.fit(vi.Model(normal, d), STEPS, "svgd", inf_kwargs=options, **fixed)
    return f"{(approx.std**2).mean():.2f}"


def main() -> None:
    by_n = [[f"`vi.rbf`, n = {n:,}", *(remains(n, d) for d in DIMENSIONS)] for n in NUMBERS]
    by_kernel = [
        [name, *(remains(n, d, kernel) for n, d in HARD)] for name, kernel in KERNELS.items()
    ]
    publish(
        "spread",
        f"A standard normal, the default optimizer, {STEPS:,} steps, seed 0.\n\n"
        + table(["variance that remains", *(f"d = {d}" for d in DIMENSIONS)], by_n)
        + "\n\n"
        + table(["", *(f"n = {n:,}, d = {d}" for n, d in HARD)], by_kernel),
    )


if __name__ == "__main__":
    main()
