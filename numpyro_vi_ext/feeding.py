"""What each step of a fit sees of the data, and how much each site counts.

An argument that is a `Minibatch` is a batch in a step, and the full data everywhere else. The model
is traced for both. For a `Stream` there are no full data: it is traced for other rows as well.
Which axes of batches the log density of a site depends on is read off the program traced for one;
the site then counts N / B times for each of them (Hoffman et al. 2013, section 2.4), so that its
log density is on average that of the full data.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from numpyro_vi_ext.additivity import Trial, try_rows
from numpyro_vi_ext.arguments import Arguments
from numpyro_vi_ext.batching.plans import Plan, Stream
from numpyro_vi_ext.batching.streaming import Flow
from numpyro_vi_ext.batching.supply import Origin
from numpyro_vi_ext.batching.total_size import scale_factor
from numpyro_vi_ext.cache import Target, find_traced
from numpyro_vi_ext.errors import warn
from numpyro_vi_ext.layout import Layout
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.tracing import Program

Array = jax.Array
Plans = tuple[Plan | Flow | None, ...]


@dataclasses.dataclass(frozen=True)
class Feed:
    """How data become those of a step; hashable, compared by its parts.

    Parameters
    ----------
    plans : tuple of Plan, Flow or None
        How each data argument is cut.
    scales : tuple of (str, float)
        Observed and factor sites that count another number of times than once.
    """

    plans: Plans = ()
    scales: tuple[tuple[str, float], ...] = ()

    def draw(self, data: tuple[Array, ...], start: Any, steps: int) -> tuple[Any, ...]:
        """Positions for a block of steps, once for all arrays that are cut alike."""
        distinct = dict.fromkeys(filter(None, self._cuts(data)))
        return tuple(plan.block_indices(lengths, start, steps) for plan, lengths in distinct)

    def take(self, data: tuple[Array, ...], drawn: tuple[Any, ...], i: Any) -> tuple[Array, ...]:
        """The data of the i-th step of a block."""
        cuts = self._cuts(data)
        rows = dict(zip(dict.fromkeys(filter(None, cuts)), drawn, strict=True))
        step = {cut: jax.tree.map(lambda x: x[i], found) for cut, found in rows.items()}
        return tuple(
            x if cut is None else cut[0].gather(x, step[cut])
            for x, cut in zip(data, cuts, strict=True)
        )

    def at_step(self, data: tuple[Array, ...], step: Any) -> tuple[Array, ...]:
        """The data of one step."""
        return self.take(data, self.draw(data, step, 1), 0)

    def _cuts(self, data: tuple[Array, ...]) -> list[tuple[Any, tuple[int, ...]] | None]:
        plans = self.plans or (None,) * len(data)
        pairs = zip(data, plans, strict=True)
        return [plan and (plan, plan.lengths(x.shape)) for x, plan in pairs]


class Fed(NamedTuple):
    """What the compiled steps of a fit run on."""

    program: Program
    feed: Feed
    inputs: Inputs  # the full data; of a Stream, a stack with the first batch alone
    origins: tuple[Origin | None, ...] = ()  # where the batches of a Stream come from

    @property
    def is_noisy(self) -> bool:
        """Whether a step sees a random part of the data."""
        return any(self.feed.plans) or self.program.is_random

    @property
    def batch_rows(self) -> int:
        """Rows of the smallest batch that a step sees; 0 if it sees the full data."""
        batch = jax.eval_shape(self.feed.at_step, self.inputs[0], 0)
        cut = (x for x, plan in zip(batch, self.feed.plans, strict=False) if plan)
        return min((x.shape[0] for x in cut if x.shape), default=0)


class _Batched(NamedTuple):
    """A model traced for a batch, and its data arguments."""

    program: Program
    names: tuple[str, ...]
    data: tuple[Array, ...]  # in full, or a first batch
    plans: Plans

    @property
    def streams(self) -> list[Stream]:
        """The streams of rows of all arguments."""
        pairs = [(plan, x) for plan, x in zip(self.plans, self.data, strict=True) if plan]
        found = (stream for plan, x in pairs for stream in plan.streams(x.shape) if stream)
        return [*dict.fromkeys(found)]


def find_fed(
    fn: Callable[..., Any],
    arguments: Arguments,
    target: Target,
    point: tuple[Array, Array],
    total_size: Mapping[str, Any] | None,
) -> Fed:
    """The model as the steps of a fit see it, and how much its sites count.

    Parameters
    ----------
    fn, arguments
        The model, and what it is called with.
    target : Target
        The same model on the data at hand.
    point : pair of arrays
        z and theta at which to try whether log densities are sums over rows.
    total_size : mapping, optional
        Observed site -> its total size, in place of what is found.

    Raises
    ------
    KeyError
        If `total_size` names something else.
    TypeError
        If `total_size` is not a mapping, or one of its values none of the forms it may have.
    ValueError
        If a latent site, or its prior, depends on the batch; if a log density that does is no sum
        over its rows; if two Minibatch or Stream objects that one site depends on do not share
        their rows; if the model needs the values of one in Python.
    """
    if not any(arguments.plans):  # steps see what everything else sees
        terms = target.program.evaluate.shapes.site_log_prob
        scales = _given_scales(target.program, total_size, dict.fromkeys(terms, 1.0))
        return Fed(target.program, Feed((), _pairs(scales)), target.inputs)
    batched = _at_batch(fn, arguments)
    layout = batched.program.layout
    used = {name: _streams_of(batched, name) for name in batched.program.terms_use}
    trials = {s: try_rows(fn, arguments, s, *point) for s in batched.streams}
    _check_shapes(layout, trials)
    found = {name: _scale(layout, name, used[name], trials) for name in used}
    scales = {**found, **_given_scales(batched.program, total_size, found)}
    plans = tuple(plan and plan.anonymous() for plan in batched.plans)
    origins = tuple(plan and plan.origin for plan in batched.plans)
    pairs = zip(batched.data, origins, strict=True)
    data = tuple(x if origin is None else x[None] for x, origin in pairs)
    inputs = data, batched.program.evaluate.constants
    return Fed(batched.program, Feed(plans, _pairs(scales)), inputs, origins)


def _pairs(scales: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """What is not counted just once, in hashable form."""
    return tuple((name, scale) for name, scale in scales.items() if scale != 1)


def _at_batch(fn: Callable[..., Any], arguments: Arguments) -> _Batched:
    try:
        program, bound = find_traced(fn, arguments.at_batch(), Program, (Program,))
    except Exception as error:
        cut = [n for n, plan in zip(arguments.names, arguments.plans, strict=True) if plan]
        error.add_note(
            f"The model runs on the full data, and fails with a batch of {cut}. Arrays that belong "
            "together must share their rows: X_mb, y_mb = Minibatch(X, y, batch_size=...)."
        )
        raise
    frozen = [arguments.names[i] for i in bound.fixed if arguments.plans[i]]
    if frozen:
        raise ValueError(
            f"the model needs the values of {frozen} in Python, for a shape or a condition, but "
            "each batch has others: compute what is needed beforehand and pass it as "
            "an argument of its own"
        )
    inputs = bound.inputs
    return _Batched(
        program,
        tuple(arguments.names[i] for i in inputs),
        tuple(arguments.leaves[i] for i in inputs),
        tuple(arguments.plans[i] for i in inputs),
    )


def _check_shapes(layout: Layout, trials: dict[Stream, Trial]) -> None:
    """Refuse latent sites and params of which each batch would have others."""
    for trial in trials.values():
        few, many = trial.shapes
        names = [n for n in {**few, **many} if few.get(n) != many.get(n) or n in layout.subsampled]
        local = {name: (few.get(name), many.get(name)) for name in names}
        if local:
            raise ValueError(
                "latent sites, or params, with an entry for each row cannot be fitted in "
                "minibatches: the rows of each batch would share them. Their shapes with some "
                f"rows and with twice as many are {local}. Marginalise them, or fit on the full "
                "data."
            )


def _streams_of(batched: _Batched, name: str) -> tuple[Stream, ...]:
    """The streams of rows whose values a term of the density depends on.

    Raises
    ------
    ValueError
        If rows of different streams are taken for the same.
    """
    *_, used = batched.program.terms_use[name]
    of_argument = {
        argument: set(filter(None, plan.streams(x.shape)))
        for argument, x, plan, is_used in zip(*batched[1:], used, strict=True)
        if plan is not None and is_used
    }
    streams = set().union(*of_argument.values())
    if len(streams) > 1 and streams not in of_argument.values():
        raise ValueError(
            f"the site {name!r} depends on {[*of_argument]}, whose rows are drawn independently "
            "and do not belong together. Pair them, as in "
            "X_mb, y_mb = Minibatch(X, y, batch_size=...), or give both the same batch_size and "
            "random_seed; what comes from outside must be parts of one Stream"
        )
    return tuple(sorted(streams))


def _scale(
    layout: Layout, name: str, used: tuple[Stream, ...], trials: dict[Stream, Trial]
) -> float:
    """How many times a term of the density counts."""
    site, scale = layout.site_of(name), 1.0
    for stream, trial in trials.items():
        _, length, size, *_ = stream
        kinds = trial.kinds.get(name, frozenset({"adds", "stays"}))
        if stream not in used and "stays" in kinds:
            continue  # neither values nor the number of rows matter
        if site in [s.name for s in layout.latents]:
            raise ValueError(
                f"the prior of the latent site {site!r} depends on a batch, so that each step "
                "would have another prior; let it depend on the full data"
            )
        if not kinds & {"adds", "averages"}:
            raise ValueError(
                f"the log density of the site {name!r} is not a sum over the rows of its data (as "
                "in a Gaussian process, a time series, or with rows that the model centres), so "
                "that a batch of them cannot stand for all: fit it on the full data, or compute "
                "what depends on all rows beforehand"
            )
        if "adds" in kinds:
            scale *= length / size
    by_hand = layout.scaled.get(name, 1.0)
    if scale != 1 and math.isclose(by_hand, scale, rel_tol=1e-4):
        warn(
            f"the log density of {name!r} is multiplied by {by_hand:g} in the model, and again by "
            f"{scale:g} = N / B for its batches: leave the former out",
        )
    return scale


def _given_scales(
    program: Program, total_size: Mapping[str, Any] | None, found: dict[str, float]
) -> dict[str, float]:
    """What the user says on how much sites count."""
    if not isinstance(total_size, Mapping | None):
        raise TypeError(
            "total_size must be a dict from observed site to its total size, got "
            f"{type(total_size).__name__}"
        )
    observed, scales = program.evaluate.shapes.observed, {}
    for name, total in (total_size or {}).items():
        if name not in observed:
            raise KeyError(f"total_size names {name!r}, but the observed sites are {[*observed]}")
        scales[name] = scale_factor(total, observed[name].shape, name)
        if found[name] != 1 and not math.isclose(scales[name], found[name], rel_tol=1e-6):
            warn(
                f"total_size says that the site {name!r} counts {scales[name]:g} times, its "
                f"batches {found[name]:g} times; what total_size says is taken",
            )
    return scales
