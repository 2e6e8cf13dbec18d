"""Draw the pictures of docs/how-to-choose.md: three methods on two targets that are known exactly.

``python docs/pictures/how_to_choose.py`` writes ``docs/images/choose_*.png`` and prints the numbers
that the page quotes.
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist

import numpyro_vi_ext as vi

IMAGES = Path(__file__).parents[1] / "images"
RHO = 0.9  # correlation of the first target
SHARES, CENTRES, SD = np.array([0.35, 0.65]), np.array([[-2.0, -1.0], [1.5, 1.0]]), 0.6
MASS = (0.99, 0.9, 0.5)  # of the target within each contour
METHODS = {
    "mean-field": {"method": "advi"},
    "full rank": {"method": "fullrank_advi"},
    "SVGD, 200 particles": {"method": "svgd", "n": 1000, "inf_kwargs": {"n_particles": 200}},
}


def correlated() -> None:
    """A normal distribution with a correlation of RHO; both standard deviations are 1."""
    cov = np.array([[1.0, RHO], [RHO, 1.0]])
    numpyro.sample("x", dist.MultivariateNormal(np.zeros(2), cov))


def bimodal() -> None:
    """Two round humps with unequal shares."""
    humps = dist.Normal(CENTRES, SD).to_event(1)
    numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(SHARES), humps))


def fits(model) -> dict[str, vi.Approximation]:
    """One approximation of the model by each method."""
    options = {"random_seed": 0, "progressbar": False}
    return {name: vi.fit(model, **method, **options) for name, method in METHODS.items()}


def points(approx) -> np.ndarray:
    """All particles, or 200 draws."""
    if isinstance(approx, vi.Empirical):
        return approx.histogram
    return np.asarray(approx.sample_dict(200, random_seed=1)["x"])


def contours(ax, model, reach: float) -> None:
    """Shade the regions of highest density that hold the shares MASS of the target."""
    line = np.linspace(-reach, reach, 200)
    grid = np.stack(np.meshgrid(line, line), axis=-1)
    density = np.exp(jax.vmap(vi.Model(model).log_density)(grid.reshape(-1, 2))).reshape(200, 200)
    falling = np.sort(density, axis=None)[::-1]
    levels = [falling[np.searchsorted(falling.cumsum() / falling.sum(), mass)] for mass in MASS]
    ax.contourf(line, line, density, [*levels, density.max()], cmap="Blues", alpha=0.6)


def draw(name: str, model, reach: float) -> None:
    """Write one picture of three panels with the same axes."""
    figure, axes = plt.subplots(
        1, 3, figsize=(9, 3.4), sharex=True, sharey=True, layout="constrained"
    )
    for ax, (method, approx) in zip(axes, fits(model).items(), strict=True):
        contours(ax, model, reach)
        ax.plot(*points(approx).T, ".", color="C3", markersize=3)
        ax.set(title=method, aspect="equal", xlabel="x[0]")
        report(name, method, approx)
    axes[0].set_ylabel("x[1]")
    figure.savefig(IMAGES / f"choose_{name}.png", dpi=80)
    plt.close(figure)


def report(name: str, method: str, approx) -> None:
    """Print what the page says of one fit."""
    verdict, right = approx.diagnose(random_seed=0), (points(approx).sum(1) > 0).mean()
    print(f"{name}, {method}: sd {approx.std.round(3)}, share of the larger hump {right:.2f}")
    print(f"  k-hat {verdict.khat}, ok {verdict.ok}; {verdict.advice[0]}")


if __name__ == "__main__":
    draw("correlated", correlated, 3.5)
    draw("bimodal", bimodal, 4.0)
