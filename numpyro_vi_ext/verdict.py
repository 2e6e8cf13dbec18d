"""What is said about a fit: a value with numbers, a table, and words."""

import dataclasses
import html
import math
import textwrap
from typing import Any

_WIDTH = 79
_SHOWN_SITES = 8


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """Whether a fit can be trusted, why, and what to do next.

    It is made by ``approx.diagnose()``, printed in plain words, and shown as a table in a notebook.

    Attributes
    ----------
    ok : bool
        Whether nothing was seen that speaks against using the draws, smoothed or not.
    headline : str
        "good", "usable" or "not to be trusted".
    khat : float or None
        Shape of the tail of the importance weights of draws from q (Yao et al. 2018; Vehtari et
        al. 2024). None for an `Empirical`, which has no density.
    khat_threshold : float or None
        From this k-hat on the weights, and so q, are not relied on: min(1 - 1/log10(draws), 0.7).
    elbo, elbo_se : float or None
        ELBO on the full data, in nats, and its standard error; None as `khat`.
    still_moving : bool or None
        Whether the optimisation was still moving at its end; None if that is not known.
    draws : int
        Draws, or rows, looked at.
    effective : float
        How many equally weighted draws these are worth; for an `Empirical`, how many rows differ,
        or the least effective sample size of a sampler's draws.
    sites : DataFrame
        One row per latent site, by the entry that is off most, the worst first: ``entry`` ("[3]"),
        ``mean_shift``, by how many posterior sds its mean moves when the draws are reweighted, and
        ``sd_ratio``, by what its sd is multiplied. In unconstrained space. For an `Empirical`, what
        Stein's identity says of both.
    advice : tuple of str
        Sentences, the most important first.
    about : str
        What was looked at.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> approx = vi.Empirical({"x": 5 + np.random.default_rng(0).normal(size=1000)}, model=model)
    >>> verdict = approx.diagnose()
    >>> print(verdict.ok, f"{verdict.sites['mean_shift']['x']:.0f}")
    False -2
    """

    ok: bool
    headline: str
    khat: float | None
    khat_threshold: float | None
    elbo: float | None
    elbo_se: float | None
    still_moving: bool | None
    draws: int
    effective: float
    sites: Any
    advice: tuple[str, ...]
    about: str

    def __repr__(self) -> str:
        parts = [f"{self.about}: {self.headline}"]
        parts += [f"  {name:<14}{value}" for name, value in self._facts()]
        rows = self._rows()
        if rows:
            wide = max(14, *(len(label) for label, *_ in rows))
            parts += ["", f"  {'site':<{wide}}  mean moves by  sd times"]
            parts += [f"  {label:<{wide}}  {a:>13}  {b:>8}" for label, a, b in rows]
            parts += [f"  {self._left_out()}"] if self._left_out() else []
        fill = {"width": _WIDTH, "initial_indent": "- ", "subsequent_indent": "  "}
        words = [textwrap.fill(text, break_on_hyphens=False, **fill) for text in self.advice]
        return "\n".join([*parts, "", *words])

    def _repr_html_(self) -> str:
        def row(cells: Any, tag: str = "td") -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

        facts = "".join(map(row, self._facts()))
        head = row(("site", "mean moves by", "sd times"), "th")
        sites = head + "".join(map(row, self._rows())) if self._rows() else ""
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self.advice)
        left_out = f"<p>{html.escape(self._left_out())}</p>" if self._left_out() else ""
        colour = "#2a7" if self.ok else "#c33"
        return (
            f'<p>{html.escape(self.about)}: <b style="color:{colour}">{self.headline}</b></p>'
            f"<table>{facts}</table><table>{sites}</table>{left_out}<ul>{items}</ul>"
        )

    def _facts(self) -> list[tuple[str, str]]:
        found = []
        if self.khat is not None and self.khat_threshold is not None:
            side = "below" if self.khat < self.khat_threshold else "not below"
            found += [("k-hat", f"{self.khat:.2f}, {side} {self.khat_threshold:.2f}")]
        worth = "" if math.isnan(self.effective) else f", worth {self.effective:,.0f}"
        found += [("draws", f"{self.draws:,d}{worth}")]
        if self.elbo is not None:
            found += [("ELBO", f"{round(self.elbo, 2) + 0.0:,.2f} +- {self.elbo_se:.2f}")]
        moving = {True: "yes", False: "no", None: "not known"}[self.still_moving]
        return [*found, ("still moving", moving)]

    def _rows(self) -> list[tuple[str, str, str]]:
        shown = self.sites.head(_SHOWN_SITES).itertuples()
        return [
            (shorten(f"{site}{entry}"), f"{round(shift, 2) + 0.0:+.2f} sd", f"{ratio:.2f}")
            for site, entry, shift, ratio in shown
        ]

    def _left_out(self) -> str:
        more = len(self.sites) - _SHOWN_SITES
        return f"and {more:,d} sites that are off less" if more > 0 else ""


def shorten(label: str, width: int = 40) -> str:
    """A label of at most so many characters."""
    head = (width - 3) // 2
    return label if len(label) <= width else f"{label[:head]}...{label[head + 3 - width :]}"
