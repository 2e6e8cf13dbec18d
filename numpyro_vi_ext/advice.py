"""What to make of what was seen of a fit, and what to do next: numbers in, plain words out."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from numpyro_vi_ext.stein import COLLAPSED

Labels = tuple[tuple[str, str], ...]

GOOD, USABLE, POOR = "good", "usable", "not to be trusted"
_GOOD_KHAT = 0.5  # Yao et al. 2018, section 3.1
_MOVED_SD, _MOVED_RATIO = 0.1, 1.1  # what a mean and an sd may move by without a word
_OFF = 0.3  # sds that a mean may be off where the ELBO still rises
_OF_ONE_SIZE = 0.3  # effective part of the draws from which on weights are called that
_LOST = 0.01  # part of the draws
_ROUNDED, _COARSE = 0.1, 0.5  # nats; sds
_SAME = 1.0  # nats between the ELBOs of restarts that came to the same place
_NEGLIGIBLE = 5.0  # nats: a mode so much lower holds less than a hundredth of the mass
_MUCH = 1.25  # times what a variance should be
_FEW_PER_DIMENSION = 10  # rows that make a covariance one can rely on
_DISTINCT = 0.9  # part of the rows; a sampler repeats some
_FEW = 100  # effective draws of a sampler (Vehtari et al. 2021 ask for that of each chain)

NUTS = "Run NUTS from here: kernel, init_params = vi.to_nuts(approx, num_chains=4)."
SMOOTHED = "approx.sample(1000, importance=True)"


class Past(NamedTuple):
    """How the fit went."""

    is_moving: bool | None
    status: str
    steps: int
    skipped: int
    optima: tuple[float, ...]


class SeenDensity(NamedTuple):
    """What was seen of a q with a density; sites by name, entries of arrays as in ``w[3]``."""

    khat: float
    threshold: float
    effective: float  # part of the draws
    lost: float  # part of the draws
    rounding: float  # nats
    step: tuple[str, float]  # in sds, between numbers next to each other in this precision
    is_random: bool
    is_dense: bool  # whether q has correlations
    shift: tuple[str, float]  # the mean that moves most, in posterior sds
    ratio: tuple[str, float]  # the sd that changes most, as a factor
    pairs: Labels = ()
    funnels: Labels = ()
    humps: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    beyond: tuple[str, float, float] | None = None  # entry, distance in sds, log ratio


class SeenRows(NamedTuple):
    """What was seen of a q that is made of rows."""

    rows: int
    distinct: int
    ndim: int
    spread: float  # mean over dimensions of variances over what they should be, each at most 1
    excess: float  # the median of these, not bounded
    shift: tuple[str, float]  # the mean that is off most, in sds; 0 if that may be noise
    effective: tuple[str, float] | None  # least effective size, of a sampler's draws


class Remark(NamedTuple):
    """One thing to say."""

    text: str
    is_bad: bool = False  # whether it speaks against trusting the fit


class Judgement(NamedTuple):
    """The verdict in words."""

    ok: bool
    headline: str
    advice: tuple[str, ...]


def judge_density(seen: SeenDensity, past: Past) -> Judgement:
    """What to make of a q with a density."""
    of_past = _of_past(past)
    remarks = of_past + _of_numbers(seen)
    if not any(remark.is_bad for remark in of_past):
        can_be_seen = not seen.is_random and seen.step[1] <= _COARSE
        remarks += _of_shape(seen) if can_be_seen else []
    elif seen.khat >= seen.threshold:  # of something on its way
        remarks = [*_of_structure(seen), *remarks] if not seen.off else remarks
        remarks += [Remark("Then diagnose again: k-hat tells nothing about where it will end.")]
    remarks += _of_optima(past.optima)
    is_good = seen.khat < _GOOD_KHAT and not _is_moved(seen)
    return _judge(remarks, GOOD if is_good else USABLE)


def judge_rows(seen: SeenRows, past: Past) -> Judgement:
    """What to make of particles, or of a sampler's draws."""
    is_good = seen.spread > 1 / _MUCH and seen.excess < _MUCH
    return _judge([*_of_past(past), *_of_rows(seen)], GOOD if is_good else USABLE)


def _judge(remarks: Sequence[Remark], otherwise: str) -> Judgement:
    ok = not any(remark.is_bad for remark in remarks)
    advice = [remark.text for remark in remarks] or ["Nothing speaks against it."]
    return Judgement(ok, otherwise if ok else POOR, tuple(advice))


def _of_past(past: Past) -> list[Remark]:
    found = []
    if past.status == "initialized":
        found += [Remark("Nothing has been fitted yet.", is_bad=True)]
    if past.is_moving:
        how = "It was interrupted" if past.status == "interrupted" else "The fit ended"
        text = f"{how} while it was still moving: run more steps (refine, or a larger n)."
        found += [Remark(text, is_bad=True)]
    if past.skipped:
        text = (
            f"{past.skipped:,d} of its steps were dropped because they were not finite: look for "
            "extreme values in the data, or take a smaller learning rate."
        )
        found += [Remark(text, is_bad=past.skipped > past.steps / 10)]
    return found


def _of_optima(optima: tuple[float, ...]) -> list[Remark]:
    if optima and not np.isfinite(max(optima)):
        return [Remark("None of the restarts came to a finite ELBO.", is_bad=True)]
    gaps = [max(optima) - elbo for elbo in optima] if optima else []
    others = sorted(gap for gap in gaps if not gap <= _SAME)  # NaN is another one too
    if not others:
        return []
    text = f"{len(others)} of {len(gaps)} restarts ended {others[0]:,.1f} nats or more lower"
    if others[0] > _NEGLIGIBLE:
        text += ": some starts are bad. There may be a better optimum still: try more of them."
        return [Remark(text)]
    share = 100 / (1 + np.exp(others[0]))
    text += f": perhaps modes of their own, one with some {share:.0f} % of the mass. {NUTS}"
    return [Remark(text, is_bad=True)]


def _of_numbers(seen: SeenDensity) -> list[Remark]:
    """What stands in the way of judging at all."""
    found = []
    if seen.is_random:
        text = (
            "The model draws a subsample inside, so there is no k-hat: leave subsample_size out of "
            "the plate (approx.with_model binds the same fit to other arguments)."
        )
        found += [Remark(text, is_bad=True)]
    if seen.lost:
        text = (
            f"The log density is not finite at {100 * seen.lost:.2g} % of the draws: q reaches "
            "where the model breaks down. Check for overflow and for hard limits."
        )
        found += [Remark(text, is_bad=seen.lost > _LOST)]
    if seen.step[1] > _COARSE:
        text = (
            f"Neighbouring numbers at {seen.step[0]} are {seen.step[1]:.2g} of its sds apart: "
            "neither fit nor draws resolve that. Use double precision (jax_enable_x64), or take a "
            "constant off the data."
        )
        found += [Remark(text, is_bad=True)]
    elif seen.rounding > _ROUNDED:
        text = (
            f"Log densities of this size are rounded to {seen.rounding:.1g} nats, which makes "
            "k-hat and ELBO noisy: use double precision (jax_enable_x64)."
        )
        found += [Remark(text)]
    return found


def _of_shape(seen: SeenDensity) -> list[Remark]:
    """How q differs from the posterior, and what helps."""
    is_high, moved = seen.khat >= seen.threshold, _is_moved(seen)
    is_poor = is_high or seen.beyond is not None
    found, structure = [], _of_structure(seen)
    known = bool(seen.off or structure)
    if seen.off:
        text = f"The ELBO rises if q's mean moves at {_first(seen.off)}: run more steps."
        found += [Remark(text, is_bad=abs(seen.shift[1]) > _OFF)]
    if seen.pairs and not seen.is_dense and (is_poor or moved):
        text = f"The posterior is correlated at {_first_pair(seen.pairs)}: take full rank "
        found += [Remark(text + "(method='fullrank_advi').")]
        known = True
    found += structure
    if seen.beyond and not seen.off:
        found += [_of_beyond(*seen.beyond, known)]
    if is_high:
        found += [_of_high_khat(seen, known)]
    elif moved or seen.khat >= _GOOD_KHAT:
        found += [Remark(f"Take smoothed draws, {SMOOTHED}: they move {_told(seen)}.")]
    return found


def _of_structure(seen: SeenDensity) -> list[Remark]:
    """Shapes that no step will give q."""
    found = []
    if seen.humps:
        text = f"Two humps at {_first(seen.humps)}, which one Gaussian covers: q has not the shape."
        found += [Remark(text, is_bad=True)]
    is_poor = seen.khat >= seen.threshold or seen.beyond is not None
    if seen.funnels and is_poor and seen.effective < _OF_ONE_SIZE:
        text = (
            f"The spread of {_first_pair([(j, i) for i, j in seen.funnels], ' changes with ')}: a "
            "funnel or a bend. Reparameterise (non-centred, as with LocScaleReparam)."
        )
        found += [Remark(text)]
    return found


def _is_moved(seen: SeenDensity) -> bool:
    """Whether reweighting moves something that is worth a word."""
    return abs(seen.shift[1]) > _MOVED_SD or abs(np.log(seen.ratio[1])) > np.log(_MOVED_RATIO)


def _of_beyond(entry: str, distance: float, log_ratio: float, known: bool) -> Remark:
    text = (
        f"There is posterior density where q has none, {distance:.0f} of its sds off at {entry}: "
        f"{np.exp(log_ratio):.2g} times that at its centre."
    )
    if not known:
        text += (
            " That is another mode, or a long tail, of which k-hat knows nothing. Fit from there "
            "(start=...) and compare ELBOs; particles (method='svgd') can be in several modes."
        )
    return Remark(text, is_bad=True)


def _of_high_khat(seen: SeenDensity, known: bool) -> Remark:
    if seen.effective > _OF_ONE_SIZE:
        text = (
            "Most weights are of one size, so the bulk of q is right, but the posterior has "
            f"heavier tails: do not trust q there. Reweighting moves {_told(seen)}."
        )
    elif known:
        text = "With k-hat this high, the table shows directions only."
    else:
        text = (
            "Few draws have most of the weight, so the table shows directions only. "
            "Reparameterise, or take a richer method."
        )
    return Remark(f"{text} {NUTS}", is_bad=True)


def _of_rows(seen: SeenRows) -> list[Remark]:
    if seen.rows == 1:
        return [Remark("A single row has no spread: it is a point, the mode at best.", True)]
    found = []
    if seen.spread < COLLAPSED:
        text = (
            f"The rows are too close together: their variance is {seen.spread:.2g} of that of a "
            "Gaussian fitted to the posterior. Fit more steps; in many dimensions take kernel="
            "vi.imq, more particles, or ADVI."
        )
        found += [Remark(text, is_bad=True)]
    elif seen.excess > 2:
        text = (
            f"The rows are too far apart: their variance is {seen.excess:.2g} times that of a "
            "Gaussian fitted to the posterior. Fit more steps, or discard more of the warm-up."
        )
        found += [Remark(text, is_bad=True)]
    if abs(seen.shift[1]) > 0.5:
        text = f"The rows sit on one side: at {seen.shift[0]} by about {seen.shift[1]:.2g} sds."
        found += [Remark(text, is_bad=True)]
    if seen.effective and seen.effective[1] < _FEW:
        text = (
            f"Autocorrelated: {seen.effective[1]:.0f} effective draws at {seen.effective[0]}, at "
            "least 100 are asked for. Run the sampler longer."
        )
        found += [Remark(text, is_bad=True)]
    if seen.distinct < _DISTINCT * seen.rows:
        found += [Remark(f"Only {seen.distinct:,d} of {seen.rows:,d} rows differ.")]
    if seen.rows < _FEW_PER_DIMENSION * seen.ndim:
        text = (
            f"{seen.rows:,d} rows in {seen.ndim:,d} dimensions: means and sds are all to read off "
            "them, not covariances."
        )
        found += [Remark(text)]
    return found


def _told(seen: SeenDensity) -> str:
    (of_mean, shift), (of_sd, ratio) = seen.shift, seen.ratio
    return f"the mean of {of_mean} by {shift:+.2f} sd, the sd of {of_sd} by a factor {ratio:.2f}"


def _first(labels: Sequence[str]) -> str:
    more = f" (and {len(labels) - 1:,d} more)" if len(labels) > 1 else ""
    return f"{labels[0]}{more}"


def _first_pair(pairs: Sequence[tuple[str, str]], link: str = " and ") -> str:
    return _first([link.join(pair) for pair in pairs])
