"""What all methods are: an approximation that is fitted and continued. Thin wiring."""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from numpyro_vi_ext.algorithm import Point
from numpyro_vi_ext.approximation.base import Facts
from numpyro_vi_ext.approximation.results import Approximation
from numpyro_vi_ext.checks import as_count
from numpyro_vi_ext.defaults import GAUSSIAN, Default
from numpyro_vi_ext.diagnostics import explain_non_finite
from numpyro_vi_ext.dispatch import Callbacks
from numpyro_vi_ext.model import Model
from numpyro_vi_ext.objectives import Objective
from numpyro_vi_ext.preparation import Plan
from numpyro_vi_ext.seeds import Seed, as_key, describe_key
from numpyro_vi_ext.training import MOST_STEPS, Run, train


class Inference(abc.ABC):
    """An approximation being fitted; can be fitted, and continued, any number of times."""

    method: ClassVar[str]  # its name in `fit`, and among the facts of an approximation
    _approx: Approximation
    _objective: Objective
    _default: ClassVar[Default] = GAUSSIAN  # how it is optimised if the user names no optimizer
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
        """Losses over all fits and refines, one per step taken, 1-D."""
        return np.concatenate([np.zeros(0), *self._losses()])

    def fit(
        self,
        n: int = 10_000,
        *,
        score: bool | None = None,
        callbacks: Sequence[Callable[..., Any]] | None = None,
        progressbar: bool = True,
        obj_optimizer: Any = None,
        obj_n_mc: int | None = None,
        total_grad_norm_constraint: float | None = None,
        more_replacements: Mapping[str, Any] | None = None,
        total_size: Mapping[str, Any] | None = None,
        warmup: bool | str = "auto",
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
        n = _as_steps(n, 0)
        score = self._objective.is_scored if score is None else bool(score)
        objective = self._objective.configure(obj_n_mc, score)
        checked = Callbacks(() if callbacks is None else callbacks)
        if not isinstance(more_replacements, Mapping | None):
            got = type(more_replacements).__name__
            raise TypeError(f"more_replacements must be a dict of model arguments, got {got}")
        model = self._approx.model.refreshed()
        if more_replacements:
            model = model.replace(**more_replacements)
        # Looked at again even if it is the same model: what it closes over may have changed.
        approx = self._approx.with_model(model)
        fed = model.fed(approx.target, (approx.mean, approx.point.theta), total_size)
        past = self._losses()
        plan = Plan(
            fed,
            approx.point,
            jax.random.fold_in(self._key, len(past)),
            objective,
            self._default,
            obj_optimizer,
            total_grad_norm_constraint,
            _as_skips(on_nonfinite),
        )
        run = plan.run(*self._begins(warmup, obj_optimizer), score)
        # Nothing above changed this object, so that a refused call leaves it as it was.
        self._approx, self._callbacks, self._past, self._run = approx, checked, past, run
        return self._train(run, n, progressbar)

    def refine(self, n: int, *, progressbar: bool = True) -> Approximation:
        """Continue the last fit exactly, as if it had been `n` steps longer.

        Parameters
        ----------
        n : int
            More steps. Optimizer state, noise, callbacks and the step count go on.
        progressbar : bool
            Whether to show progress.

        Raises
        ------
        TypeError
            Before the first ``fit``.
        """
        self._check_idle()
        if self._run is None:
            raise TypeError("refine continues a fit: call .fit(n) first")
        return self._train(self._run, _as_steps(n, self._run.step), progressbar)

    def _begins(self, warmup: Any, obj_optimizer: Any) -> tuple[bool, Any]:
        """Whether there is a warm-up, and else the frame of the steps."""
        if warmup not in (True, False, "auto"):
            raise ValueError(f"warmup must be True, False or 'auto', got {warmup!r}")
        possible = self._default.framed is not None
        if warmup is True and not possible:
            raise ValueError(f"a warm-up cannot be applied to {self.method!r}")
        if warmup != "auto" or not possible or obj_optimizer is not None:
            return warmup is True, None
        facts = self._approx.facts
        frame = self._approx.point.q if facts.motion == "settled" or facts.origin == "q" else None
        return facts.step == 0 and not facts.origin, frame

    def _check_idle(self) -> None:
        if self._busy:
            raise RuntimeError("this inference object is being fitted already; use another one")

    def _train(self, run: Run, n: int, progressbar: bool) -> Approximation:
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
                progressbar=progressbar,
            )
        finally:
            self._busy = False
            status = "stopped" if run.status == "non-finite" else run.status
            losses = run.history.view()
            result = run.state.result
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
        run, origin = self._run, approx.facts.origin
        skipped = 0 if run is None else int(run.state.skipped)
        warm = "" if run is None else run.warmup
        facts = Facts(
            past, status, message, step, self.method, self._seed, origin, warm, skipped=skipped
        )
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
