"""What all methods are: an approximation that is fitted and continued. Thin wiring."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from numpyro_vi_ext.algorithm import Point, result_of
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.defaults import GAUSSIAN, Default
from numpyro_vi_ext.diagnostics import explain_non_finite
from numpyro_vi_ext.dispatch import Callbacks
from numpyro_vi_ext.feeding import Fed
from numpyro_vi_ext.model import Model
from numpyro_vi_ext.objectives import Objective
from numpyro_vi_ext.preparation import Place, Setup
from numpyro_vi_ext.run import Run
from numpyro_vi_ext.seeds import Seed, as_key, describe_key
from numpyro_vi_ext.training import MOST_STEPS, train


class Inference(abc.ABC):
    """An approximation being fitted; can be fitted, and continued, any number of times.

    Abstract: the methods are `ADVI`, `FullRankADVI`, `KLqp`, `SVGD` and `ASVGD`.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import numpyro_vi_ext as vi
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(3, 1))
    >>> inference = vi.ADVI(model, random_seed=0)
    >>> inference.fit(100, warmup=False, progressbar=False).steps
    100
    >>> inference.refine(50, progressbar=False).steps, inference.hist.shape
    (150, (150,))
    """

    method: ClassVar[str]  # its name in `fit`, and among the facts of an approximation
    _approx: Approximation
    _objective: Objective
    _default: Default = GAUSSIAN  # how it is optimised if the user names no optimizer
    _key: jax.Array
    _seed: int | str  # what makes the key
    _run: Run | None
    _past: tuple[np.ndarray, ...]  # losses of the fits before the present one
    _callbacks: Callbacks
    _busy: bool = False

    @abc.abstractmethod
    def __init__(self, start: Any, **options: Any) -> None: ...

    def _begin(self, approx: Approximation, objective: Objective, random_seed: Seed) -> None:
        jax.eval_shape(objective.init, approx.point.q)  # what cannot be begun is refused now
        self._approx, self._objective = approx, objective
        self._key, self._run, self._past = as_key(random_seed), None, ()
        self._seed = describe_key(self._key)
        self._callbacks = Callbacks(())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(approx={self._approx!r})"

    @property
    def approx(self) -> Approximation:
        """The current approximation; inside a callback, that of the callback's step."""
        return self._approx

    @property
    def hist(self) -> np.ndarray:
        """Losses over all fits and refines, one per step recorded, as in `Approximation.hist`."""
        return np.concatenate([np.zeros(0), *self._losses()])

    def fit(
        self,
        n: int | str = 10_000,
        *,
        max_steps: int = 100_000,
        score: bool | None = None,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        progressbar: bool = True,
        obj_optimizer: Any = None,
        obj_n_mc: int | None = None,
        total_grad_norm_constraint: float | None = None,
        more_replacements: Mapping[str, Any] | None = None,
        total_size: Mapping[str, Any] | None = None,
        warmup: bool | str = "auto",
        restarts: int = 1,
        on_nonfinite: str = "stop",
    ) -> Approximation:
        """Fit from the current approximation, with a fresh optimizer and step count.

        Parameters and errors are those of `numpyro_vi_ext.fit`.

        Returns
        -------
        Approximation
            Also available as ``.approx``.
        """
        self._check_idle()
        until_settled = isinstance(n, str)
        n = _as_steps(_as_most(n, max_steps), 0)
        score = self._objective.is_scored if score is None else bool(score)
        objective = self._objective.configure(obj_n_mc, score)
        checked = Callbacks(() if callbacks is None else callbacks)
        approx = self._on_model_now(more_replacements)
        fed = approx.model.fed(approx.target, (approx.mean, approx.point.theta), total_size)
        past = self._losses()
        key = jax.random.fold_in(self._key, len(past))
        setup = Setup(fed, approx.point, key, objective, self._default)._replace(
            obj_optimizer=obj_optimizer,
            max_norm=total_grad_norm_constraint,
            skips=_as_skips(on_nonfinite),
            warmup=self._warms_up(warmup, obj_optimizer),
            restarts=self._as_restarts(restarts, fed),
            place=self._place(warmup, obj_optimizer),
        )
        run = setup.run(score, until_settled)
        # Nothing above changed this object, so that a refused call leaves it as it was.
        self._approx, self._callbacks, self._past, self._run = approx, checked, past, run
        return self._train(run, n, progressbar, until_settled)

    def refine(self, n: int, *, progressbar: bool = True) -> Approximation:
        """Continue the last fit exactly, as if it had been `n` steps longer.

        Parameters
        ----------
        n : int
            More steps. Optimizer state, noise, callbacks and the step count go on.
        progressbar : bool
            Whether to show progress.

        Returns
        -------
        Approximation
            Also available as ``.approx``.

        Raises
        ------
        TypeError
            Before the first ``fit``, or if `n` is not an int.
        ValueError
            If `n` is negative, or the steps of the fit would be more than it can have.
        NonFiniteError, RuntimeError
            As `fit`.
        """
        self._check_idle()
        if self._run is None:
            raise TypeError("refine continues a fit: call .fit(n) first")
        return self._train(self._run, _as_steps(n, self._run.step), progressbar)

    def _on_model_now(self, more_replacements: Any) -> Approximation:
        """The current approximation, for the model with its present arguments and these."""
        if not isinstance(more_replacements, Mapping | None):
            got = type(more_replacements).__name__
            raise TypeError(f"more_replacements must be a dict of model arguments, got {got}")
        model = self._approx.model.refreshed()
        if more_replacements:
            model = model.replace(**more_replacements)
        # Looked at again even if it is the same model: what it closes over may have changed.
        return self._approx.with_model(model)

    def _warms_up(self, warmup: Any, obj_optimizer: Any) -> bool:
        """Whether there is a warm-up."""
        if warmup is not True and warmup is not False and warmup != "auto":
            raise ValueError(f"warmup must be True, False or 'auto', got {warmup!r}")
        if warmup is True and not self._compares:
            raise ValueError(f"a warm-up cannot be applied to {self.method!r}")
        facts = self._approx.facts
        fresh = facts.step == 0 and not facts.origin and obj_optimizer is None
        return warmup is True or (warmup == "auto" and fresh and self._compares)

    @property
    def _compares(self) -> bool:
        """Whether there is an ELBO by which starts can be compared."""
        return self._default.framed is not None

    def _place(self, warmup: Any, obj_optimizer: Any) -> Place:
        """The frame of the steps, if it is known."""
        if warmup != "auto" or obj_optimizer is not None or not self._compares:
            return Place()
        facts, run = self._approx.facts, self._run
        if run is not None and run.state.frame is not None:
            state = run.state
            return Place(state.frame, state.framed_result.q, state.memory)
        fits = facts.motion == "settled" or facts.origin == "q"
        return Place(self._approx.point.q if fits else None)

    def _as_restarts(self, restarts: Any, fed: Fed) -> int:
        restarts = as_count(restarts, "restarts", 1)
        if restarts > 1 and not self._compares:
            raise ValueError(f"restarts cannot be applied to {self.method!r}")
        if restarts > 1 and any(fed.origins):
            raise ValueError("restarts need data that can be read again, not those of a Stream")
        return restarts

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError("this inference object is being fitted already; use another one")

    def _train(
        self, run: Run, n: int, progressbar: bool, until_settled: bool = False
    ) -> Approximation:
        callbacks, start = self._callbacks, self._approx

        def hook(step: int, point: Point) -> None:
            if not callbacks.due(step):
                return
            losses = run.history.view(step) if run.score else None
            self._approx = self._at(start, point, "running", "", step, losses)
            callbacks(self._approx, losses, step)

        self._busy = True
        try:
            train(
                run,
                n,
                hook=hook if callbacks else None,
                every=callbacks.every,
                at_first=callbacks.at_first,
                until_settled=until_settled,
                progressbar=progressbar,
            )
        finally:
            self._busy = False
            status = "stopped" if run.status == "non-finite" else run.status
            losses = run.history.view()
            result = result_of(run.state)
            self._approx = self._at(start, result, status, run.message, run.step, losses)
        if run.status == "non-finite":
            error = explain_non_finite(run, self._approx)
            self._approx = self._at(start, result, status, str(error), run.step, losses)
            error.approx = self._approx
            raise error
        return self._approx

    def _at(
        self,
        approx: Approximation,
        point: Point,
        status: str,
        message: str,
        step: int,
        losses: np.ndarray | None,
    ) -> Approximation:
        past = self._past if losses is None else (*self._past, losses)
        facts = Facts(past, status, message, step, self.method, self._seed, approx.facts.origin)
        if self._run is not None:
            facts = facts._replace(warmup=self._run.warmup, optima=self._run.optima)
        if self._run is not None and status != "running":  # known at the end only
            facts = facts._replace(motion=self._run.motion, skipped=int(self._run.state.skipped))
        return approx.at(point, facts)

    def _losses(self) -> tuple[np.ndarray, ...]:
        return self._past if self._run is None else (*self._past, self._run.history.view())


def _as_steps(n: Any, done: int) -> int:
    """Check a number of steps to take after the `done` ones."""
    n = as_count(n, "n", 0)
    if done + n > MOST_STEPS:
        raise ValueError(
            f"n must be at most {MOST_STEPS - done:,d}, got {n:,d}: one fit with all its refines "
            f"has at most {MOST_STEPS:,d} steps; call .fit again for more"
        )
    return n


def _as_most(n: Any, max_steps: Any) -> Any:
    """The most steps to take, for a number of steps or "auto"."""
    if not isinstance(n, str):
        return n
    if n != "auto":
        raise ValueError(f"n must be a number of steps or 'auto', got {n!r}")
    return as_count(max_steps, "max_steps", 1)


def _as_skips(on_nonfinite: Any) -> bool:
    if on_nonfinite not in ("stop", "skip"):
        raise ValueError(f"on_nonfinite must be 'stop' or 'skip', got {on_nonfinite!r}")
    return on_nonfinite == "skip"


def check_same_model(model: Any, bound: Model, owner: str) -> None:
    """Check that a model given beside one that is bound already is the same, or None.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not (model is None or model is bound or model is bound.fn):
        raise ValueError(f"the {owner} has a model of its own; pass None or that model")
