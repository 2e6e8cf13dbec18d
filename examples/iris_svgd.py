"""Softmax regression on the Iris data by SVGD, its accuracy watched while it is fitted.

The data are scikit-learn's: four measurements of 150 flowers of three species, a quarter of which
are held out. 500 particles start around zero, with a standard deviation of 1. One tracker records
how many flowers of both sets are told right by 100 particles picked at random, after each of 100
steps of the default optimizer and of 400 of Adamax, which goes on where the first one stopped.

The fit says that its particles are too close together, and that is so: the flowers tell nothing
about what is added to all species alike, so that along those directions the posterior is as wide as
the prior. The predictions are the same wherever a particle is on them.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split

import numpyro_vi_ext as vi

SPECIES = 3


def model(X, y=None):
    flat = dist.ImproperUniform(dist.constraints.real, (), (SPECIES,))
    intercept = numpyro.sample("intercept", flat)
    beta = numpyro.sample("beta", dist.Normal(0, 100).expand([X.shape[1], SPECIES]).to_event(2))
    logits = X @ beta + intercept
    numpyro.deterministic("p", jax.nn.softmax(logits))
    with numpyro.plate("flower", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=logits), obs=y)


def load_data():
    X, y = load_iris(return_X_y=True)
    return train_test_split(X, y, random_state=0, stratify=y)


def accuracy_tracker(X_test, y_train, y_test, size=100):
    """A tracker of the accuracies, on both sets, of draws from the approximation."""

    def train_accuracy(site):
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y_train)

    def test_accuracy(site):
        return jnp.mean(jnp.argmax(site["p"], axis=-1) == y_test)

    test = {"X": X_test}
    return vi.Tracker(
        train=lambda approx: approx.sample_node(train_accuracy, size=size),
        test=lambda approx: approx.sample_node(test_accuracy, size=size, more_replacements=test),
    )


def report(tracker):
    train, test = np.mean(tracker["train"][-1]), np.mean(tracker["test"][-1])
    print(f"after {len(tracker['test'])} steps: train {train:.3f}, test {test:.3f}")


def judge(approx, X_test, y_test, draws):
    """Say how many flowers are told right by the probabilities averaged over draws."""
    p = approx.sample_node("p", size=draws, more_replacements={"X": X_test}, random_seed=1)
    found = np.argmax(np.mean(p, axis=0), axis=-1)
    wrong = np.sum(found != y_test)
    print(f"test accuracy {np.mean(found == y_test):.3f}: {wrong} of {len(y_test)} flowers wrong")


def draw(tracker, first, path):
    """Mean accuracies, and between which values nine draws in ten lie."""
    figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, values in tracker.hist.items():
        values = np.array(values)
        low, high = np.quantile(values, [0.05, 0.95], axis=1)
        steps = np.arange(1, len(values) + 1)  # of both fits
        (line,) = ax.plot(steps, values.mean(axis=1), label=f"{name} accuracy")
        ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.2, lw=0)
    ax.axvline(first, color="0.5", ls="--", lw=1)
    ax.text(first, 0.02, " Adamax from here on", color="0.3")
    ax.set(xlabel="step", ylabel="accuracy, mean and 90 % of the draws", ylim=(0, 1.02))
    ax.legend(loc="lower right")
    figure.savefig(path, dpi=80)
    plt.close(figure)
    print(f"saved {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("iris_svgd_output"))
    parser.add_argument("--quick", action="store_true", help="few steps, to try it out")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    first, second, draws = (20, 40, 500) if arguments.quick else (100, 400, 5000)

    X_train, X_test, y_train, y_test = load_data()
    tracker = accuracy_tracker(X_test, y_train, y_test)
    svgd = vi.SVGD(
        model,
        n_particles=500,
        jitter=1,
        model_args=(X_train,),
        model_kwargs={"y": y_train},
        random_seed=0,
    )
    print(svgd.fit(first, callbacks=[tracker]))
    report(tracker)
    approx = svgd.fit(second, obj_optimizer=vi.adamax(learning_rate=0.1), callbacks=[tracker])
    print(approx)  # what it has to say, approx.message, is logged while fitting
    report(tracker)
    judge(approx, X_test, y_test, draws)
    draw(tracker, first, arguments.output / "iris_svgd.png")


if __name__ == "__main__":
    main()
