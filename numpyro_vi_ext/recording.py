"""Functions as JAX programs, with the arrays they close over as inputs."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval

from numpyro_vi_ext.programs import numbers_moved

Array = jax.Array
Inputs = tuple[tuple[Array, ...], tuple[Array, ...]]  # of compiled code: data, closed-over arrays


class Recorded:
    """A function as a JAX program, with the arrays it closed over taken out as inputs.

    Calling it runs the compiled program on those arrays; `apply` takes them as an argument, for
    use inside other compiled code.
    """

    def __init__(self, fn: Callable[..., Any], *example: Any) -> None:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(*example)
        with jax.ensure_compile_time_eval():  # also when first used inside a user's own jit
            closed = _with_own_constants(closed)
        self._jaxpr = closed.jaxpr
        self.constants: tuple[Array, ...] = tuple(closed.consts)
        self._treedef = jax.tree.structure(shapes)
        self._inputs = jax.tree.structure(example)
        self.shapes = shapes
        self._compiled = jax.jit(self.apply)

    def apply(self, constants: tuple[Array, ...], *args: Any) -> Any:
        """Evaluate with the given closed-over arrays."""
        run = jaxpr_as_fun(ClosedJaxpr(self._jaxpr, list(constants)))
        return jax.tree.unflatten(self._treedef, run(*jax.tree.leaves(args)))

    def __call__(self, *args: Any) -> Any:
        """Evaluate with the arrays that were closed over."""
        return self._compiled(self.constants, *args)

    @functools.cached_property
    def moved(self) -> int:
        """Numbers that one run reads and writes."""
        return numbers_moved(self._jaxpr)

    def used_by(self, outputs: Any) -> Any:
        """Flags on the arguments: whether any of the flagged outputs depends on them."""
        _, used = partial_eval.dce_jaxpr(self._jaxpr, jax.tree.leaves(outputs))
        return jax.tree.unflatten(self._inputs, used)


def _with_own_constants(part: Any) -> Any:
    """Part of a JAX program with copies of the NumPy arrays it holds, at any depth.

    Their owner may change them in place. And as long as one that JAX has converted (float64 to
    float32, say) is alive, JAX takes the result for the same array again, changed or not.
    """
    own = _with_own_constants
    if isinstance(part, np.ndarray):
        return part.copy()
    if isinstance(part, tuple | list) and not hasattr(part, "_fields"):
        return type(part)(map(own, part))
    if isinstance(part, Literal):
        return Literal(own(part.val), part.aval) if isinstance(part.val, np.ndarray) else part
    if isinstance(part, ClosedJaxpr):  # from JAX 0.12 on, every Jaxpr is one
        consts = [jnp.array(c) if isinstance(c, np.ndarray) else c for c in own(part.consts)]
        inner = part.jaxpr
        inner = inner.replace(eqns=own(inner.eqns), outvars=own(inner.outvars))
        return ClosedJaxpr(inner, consts)
    if isinstance(part, Jaxpr):
        return part.replace(eqns=own(part.eqns), outvars=own(part.outvars))
    if isinstance(part, JaxprEqn):
        params = {name: own(value) for name, value in part.params.items()}
        return part.replace(invars=own(part.invars), params=params)
    return part
