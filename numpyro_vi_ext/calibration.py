"""Calibration over the prior: what fits to simulated data sets say, in numbers and in words."""

import dataclasses
import functools
import math
import textwrap
from typing import Any, NamedTuple

import numpy as np

from numpyro_vi_ext.verdict import shorten

_LEVEL = 0.05  # chance of any word but "calibrated", over all sites, if all are
_WIDTH = 79
_LABEL = 33  # characters of a site's name in the table
_MOST_SITES = 40  # in the table

_MEANINGS = {
    "biased to the left": "the posterior means are too low, over the prior on average.",
    "biased to the right": "the posterior means are too high, over the prior on average.",
    "unbiased, too narrow": "the means are right on average, the posterior sds too small.",
    "unbiased, too wide": "the means are right on average, the posterior sds too large.",
}


class SiteCheck(NamedTuple):
    """What is said of one site, by the entry that is off most.

    Attributes
    ----------
    entry : str
        Which entry, such as "[3]"; empty for a scalar site.
    mean : float
        Mean of the calibration probabilities; 0.5 where posterior means are right on average.
    ks : float
        The statistic of the test for symmetry.
    pvalue : float
        The smaller one of the tests for symmetry and for spread, corrected for all tests made.
    verdict : str
        "calibrated", "biased to the left", "biased to the right", "unbiased, too narrow" or
        "unbiased, too wide".
    """

    entry: str
    mean: float
    ks: float
    pvalue: float
    verdict: str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """Whether fits find, on average, what the data were simulated with.

    It is made by `vsbc`, printed in plain words, and drawn by `plot_vsbc`. The first five fields
    have the names and shapes of NumPyro's ``VSBCResult``.

    Attributes
    ----------
    probabilities : dict
        Site -> for each data set the share of draws from q below the true value, shape
        ``(data sets, *site shape)``.
    ks_stats : dict
        Site -> two-sample Kolmogorov-Smirnov statistic between these probabilities and one minus
        them, shape of the site.
    ks_pvalues : dict
        Site -> its exact p-value under symmetry, not corrected for the number of entries. NumPyro
        takes the two samples for independent, which they are not: a p-value of 0.05 there is
        one of 0.11 here.
    ranks : dict
        Site -> number of draws below the true value, shape ``(data sets, *site shape)``.
    param_names : tuple of str
        The sites.
    spread_pvalues : dict
        Site -> p-value of the test for spread: under the exact posterior, the mean of the
        distance of a probability from 0.5 is 0.25; larger where q is too narrow. Shape of the site.
    draws : int
        Draws from q for each data set.
    failed : int
        Data sets left out, because their density or their fit was not finite.
    about : str
        What was looked at.

    References
    ----------
    Yao, Vehtari, Simpson and Gelman (2018), as for `vsbc`. The p-value under symmetry is that of
    Butler (1969), A test for symmetry using the sample distribution function, Annals of
    Mathematical Statistics 40; the correction is that of Holm (1979).

    Examples
    --------
    >>> ranks = np.random.default_rng(0).binomial(100, 0.5, size=200)  # too near to the middle
    >>> result = calibrate({"mu": ranks}, draws=100, failed=0, about="an example")
    >>> result.ok, result.sites["mu"].verdict, result.simulations
    (False, 'unbiased, too wide', 200)
    """

    probabilities: dict[str, np.ndarray]
    ks_stats: dict[str, np.ndarray]
    ks_pvalues: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    param_names: tuple[str, ...]
    spread_pvalues: dict[str, np.ndarray]
    draws: int
    failed: int
    about: str

    @property
    def simulations(self) -> int:
        """Data sets that were fitted."""
        return len(self.ranks[self.param_names[0]])

    @property
    def ok(self) -> bool:
        """Whether all sites are said to be calibrated."""
        return all(site.verdict == "calibrated" for site in self.sites.values())

    @functools.cached_property
    def sites(self) -> dict[str, SiteCheck]:
        """What is said of each site, corrected for the number of all entries of all sites.

        A dict of site -> named tuple ``(entry, mean, ks, pvalue, verdict)`` of the entry that is
        off most: its index, as "[3]"; the mean of its probabilities, 0.5 where posterior means are
        right on average; the statistic for symmetry; the smaller of the corrected p-values; and a
        verdict, "calibrated", "biased to the left", "biased to the right", "unbiased, too narrow"
        or "unbiased, too wide".
        """
        names = [name for name in self.param_names if self.ks_pvalues[name].size]
        if not names:
            return {}
        tests = [np.stack([self.ks_pvalues[n], self.spread_pvalues[n]]) for n in names]
        flat = np.concatenate([np.zeros(0), *(x.ravel() for x in tests)])
        cuts = np.cumsum([x.size for x in tests])[:-1]
        parts = np.split(_corrected(flat), cuts)
        return {n: self._check(n, p.reshape(2, -1)) for n, p in zip(names, parts, strict=True)}

    def _check(self, name: str, pvalues: np.ndarray) -> SiteCheck:
        """`pvalues` are corrected, of symmetry and of spread, shape (2, entries)."""
        biased = pvalues[0].min() < _LEVEL
        raw = self.ks_pvalues[name] if biased else self.spread_pvalues[name]
        other = self.ks_pvalues[name]
        worst = np.lexsort((other.ravel(), raw.ravel(), pvalues[0 if biased else 1]))[0]
        index = np.unravel_index(worst, other.shape)
        entry = f"[{', '.join(map(str, index))}]" if index else ""
        ranks, ks = self.ranks[name][:, *index], float(self.ks_stats[name][index])
        mean = float(self.probabilities[name][:, *index].mean())
        pvalue = float(pvalues[:, worst].min())
        word = "calibrated"
        if biased:
            word = f"biased to the {'left' if _walk(ranks, self.draws)[1] > 0 else 'right'}"
        elif pvalue < _LEVEL:
            distance = np.abs(ranks / self.draws - 0.5).mean()
            word = f"unbiased, too {'narrow' if distance > 0.25 else 'wide'}"
        return SiteCheck(entry, mean, ks, pvalue, word)

    def __repr__(self) -> str:
        total = self.simulations + self.failed
        parts = [f"{self.about}: {total:,d} data sets from the prior, {self.draws:,d} draws each"]
        if self.failed:
            parts += [f"{self.failed:,d} left out: their density or their fit was not finite"]
        labels = {name: shorten(f"{name}{site.entry}", _LABEL) for name, site in self.sites.items()}
        shown = sorted(self.sites, key=lambda name: self.sites[name].pvalue)[:_MOST_SITES]
        wide = max(10, *(len(labels[name]) for name in shown)) if shown else 10
        parts += ["", f"  {'site':<{wide}}  mean p    KS  p-value  verdict"]
        for name in shown:
            site = self.sites[name]
            pvalue = f"{site.pvalue:.3f}" if site.pvalue >= 0.001 else "<0.001"
            numbers = f"{site.mean:6.2f}  {site.ks:.2f}  {pvalue:>7}"
            parts += [f"  {labels[name]:<{wide}}  {numbers}  {site.verdict}"]
        if len(self.sites) > len(shown):
            parts += [f"  and {len(self.sites) - len(shown):,d} sites with larger p-values"]
        return "\n".join([*parts, "", *self._notes()])

    def _notes(self) -> list[str]:
        tests = sum(2 * self.ks_pvalues[name].size for name in self.sites)
        notes = [
            "p is the share of draws below the true value: 0.5 on average, and symmetric about "
            f"that, if the means are right. p-values are corrected for {tests:,d} tests."
        ]
        verdicts = {site.verdict for site in self.sites.values()}
        notes += [f"{word}: {text}" for word, text in _MEANINGS.items() if word in verdicts]
        fill = {"width": _WIDTH, "initial_indent": "- ", "subsequent_indent": "  "}
        return [textwrap.fill(text, break_on_hyphens=False, **fill) for text in notes]


def calibrate(ranks: dict[str, np.ndarray], draws: int, failed: int, about: str) -> Calibration:
    """Test ranks of true values among `draws` draws, each of shape ``(data sets, *site shape)``."""
    stats, symmetric, spread = {}, {}, {}
    for name, found in ranks.items():
        flat = found.reshape(len(found), math.prod(found.shape[1:])).T
        three = np.asarray([(*_symmetry(r, draws), _spread(r, draws)) for r in flat]).reshape(-1, 3)
        shape = found.shape[1:]
        stats[name], symmetric[name], spread[name] = (x.reshape(shape) for x in three.T)
    probabilities = {name: found / draws for name, found in ranks.items()}
    names = tuple(ranks)
    tests = stats, symmetric, ranks, names, spread
    return Calibration(probabilities, *tests, draws, failed, about)


def _symmetry(ranks: np.ndarray, draws: int) -> tuple[float, float]:
    """Kolmogorov-Smirnov statistic of probabilities against one minus them, exact p-value.

    Under symmetry the signs of the distances from the middle are those of fair coins, whatever
    the distances are (Butler 1969); the statistic is how far the walk of these coins, begun at
    the largest distance, gets from zero.
    """
    farthest, _ = _walk(ranks, draws)
    return farthest / len(ranks), _reach(int(np.sum(2 * ranks != draws)), farthest)


def _walk(ranks: np.ndarray, draws: int) -> tuple[int, int]:
    """How far it gets from zero, and the sign there: 1 if more of the true values are above."""
    distance = 2 * ranks.astype(int) - draws
    order = np.argsort(-np.abs(distance), kind="stable")
    path = np.cumsum(np.sign(distance[order]))
    size = np.abs(distance[order])
    last = np.append(size[1:] != size[:-1], True)  # equal distances come at once
    path = path[last]
    place = np.argmax(np.abs(path))
    return int(abs(path[place])), int(np.sign(path[place]))


@functools.lru_cache(maxsize=4096)
def _reach(steps: int, distance: int) -> float:
    """Chance that a walk of so many fair steps is ever so far from where it began."""
    if distance == 0:
        return 1.0
    inside = np.zeros(2 * distance + 1)  # the ends are out
    inside[distance] = 1.0
    for _ in range(steps):
        inside[1:-1] = 0.5 * (inside[:-2] + inside[2:])
        inside[[0, -1]] = 0.0
    return max(0.0, float(1 - inside.sum()))


def _spread(ranks: np.ndarray, draws: int) -> float:
    """Two-sided p-value of the mean distance from the middle, if ranks are uniform."""
    distance = np.abs(2 * np.arange(draws + 1) / draws - 1)
    error = (np.abs(2 * ranks / draws - 1).mean() - distance.mean()) / distance.std()
    return math.erfc(abs(error) * math.sqrt(len(ranks) / 2))


def _corrected(pvalues: np.ndarray) -> np.ndarray:
    """Corrected for their number (Holm 1979)."""
    order = np.argsort(pvalues)
    factors = np.arange(len(pvalues), 0, -1)
    corrected = np.empty(len(pvalues))
    corrected[order] = np.minimum(np.maximum.accumulate(factors * pvalues[order]), 1.0)
    return corrected


def check_calibration(result: Any) -> Calibration:
    """Refuse anything else.

    Raises
    ------
    TypeError
    """
    if not isinstance(result, Calibration):
        raise TypeError(f"expected the result of vsbc, got {type(result).__name__}")
    return result
