"""A distribution made of rows: draws of a sampler, or particles."""

import dataclasses
from typing import ClassVar, Self

import jax
import numpy as np

from numpyro_vi_ext.families.base import Family

Array = jax.Array

_ROWS_PER_DIMENSION = 10  # that make a covariance one can rely on


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Histogram(Family):
    """The uniform distribution over the rows of an array; a draw is one of them, put back.

    Parameters
    ----------
    histogram : array, shape (n, d)
        One row per draw or particle.
    """

    histogram: Array

    locations: ClassVar[tuple[str, ...]] = ("histogram",)

    @classmethod
    def match(cls, other: Family, key: Array, size: int) -> Self:
        """As many draws from another distribution."""
        return cls(jax.vmap(other.draw)(jax.random.split(key, size)))

    @property
    def ndim(self) -> int:
        return self.histogram.shape[1]

    def draw(self, key: Array) -> Array:
        return self.histogram[jax.random.randint(key, (), 0, self.histogram.shape[0])]

    def mean(self) -> np.ndarray:
        rows = np.asarray(self.histogram)
        return rows.mean(0, float).astype(rows.dtype)  # float32 would lose digits over many rows

    def std(self) -> np.ndarray:
        rows = np.asarray(self.histogram)
        return rows.std(0, float).astype(rows.dtype)

    def cov(self) -> np.ndarray:
        rows = np.asarray(self.histogram)
        centred = rows - rows.mean(0, float)
        return (centred.T @ centred / len(rows)).astype(rows.dtype)

    def metric(self) -> np.ndarray:
        rows, ndim = self.histogram.shape
        return self.cov() if rows >= _ROWS_PER_DIMENSION * ndim else self.std() ** 2

    def params(self) -> dict[str, np.ndarray]:
        return {"histogram": np.asarray(self.histogram)}
