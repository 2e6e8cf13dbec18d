"""Compiled chunks of steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Algorithm, Point, State
from numpyro_vi_ext.model import Inputs
from numpyro_vi_ext.tracing import Program

Array = jax.Array

MAX_STEPS = 2**17  # the most steps in one chunk
NEVER = 2**30  # as `every`: no snapshots are wanted

_BLOCK_STEPS, _BLOCK_NUMBERS = 128, 8192  # noise is drawn for so many steps, and numbers, at once
_SNAPSHOTS, _SNAPSHOT_BYTES = 4096, 2**22  # what a chunk may record for callbacks


class Chunk:
    """A compiled run of any number of steps up to a limit, with snapshots on the way.

    Steps are grouped in blocks, aligned to the step count, whose noise is drawn at once; so the
    result of a step depends on neither the start nor the length of the chunk it is computed in.
    """

    def __init__(self, program: Program, algorithm: Algorithm, point: Point) -> None:
        numbers = algorithm.objective.n_mc * max(1, point.q.ndim)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(point))
        self._program, self._algorithm = program, algorithm
        self._block = max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // numbers))
        self.snapshots = max(1, min(_SNAPSHOTS, _SNAPSHOT_BYTES // max(1, size)))
        self._compiled = jax.jit(self._run)

    def __call__(
        self, state: State, inputs: Inputs, end: int, every: int
    ) -> tuple[State, np.ndarray, Point, bool]:
        """Run until the state has taken `end` steps, or until a loss is not finite.

        Returns
        -------
        state : State
        losses : array
            One per step taken, the offending one included.
        snapshots : Point
            The results at the multiples of `every` passed, stacked.
        finite : bool
            Whether the state is finite.
        """
        begin = int(state.step)
        state, losses, snapshots, finite = self._compiled(
            state, inputs, np.int32(end), np.int32(every)
        )
        offset = begin % self._block
        losses = np.asarray(losses)[offset : offset + int(state.step) - begin]
        return state, losses, snapshots, bool(finite)

    def draws(self, state: State) -> Array:
        """Draws of q that the next step will use, shape (n_mc, ndim)."""
        index, offset = divmod(int(state.step), self._block)
        return jax.vmap(state.point.q.transform)(self._noise(state, index)[offset])

    def _noise(self, state: State, index: Any) -> Array:
        """Noise of the steps of one block."""
        key = jax.random.fold_in(state.key, index)
        ndim, dtype = state.point.q.ndim, jnp.result_type(float)
        return self._algorithm.objective.noise(key, self._block, ndim, dtype)

    def _run(self, state: State, inputs: Inputs, end: Array, every: Array) -> Any:
        block = self._block
        first = state.step // block
        dtype = jnp.result_type(float)
        losses = jnp.zeros((MAX_STEPS // block + 2) * block, dtype)
        # one slot more than needed takes the results at block ends that no callback asked for
        snapshots = jax.tree.map(
            lambda x: jnp.zeros((self.snapshots + 1, *x.shape), x.dtype), state.result
        )
        base = state.step // every

        def run_block(carry: Any) -> Any:
            state, losses, snapshots, ok = carry
            index = state.step // block
            eps = self._noise(state, index)
            stop = jnp.minimum(end, (index + 1) * block)

            def run_segment(carry: Any) -> Any:
                state, block_losses, snapshots, ok = carry
                until = jnp.minimum(stop, (state.step // every + 1) * every)
                state, block_losses, ok = self._steps(state, block_losses, ok, until, eps, inputs)
                slot = jnp.minimum((state.step - 1) // every - base, self.snapshots)
                snapshots = jax.tree.map(lambda s, x: s.at[slot].set(x), snapshots, state.result)
                return state, block_losses, snapshots, ok

            state, block_losses, snapshots, ok = jax.lax.while_loop(
                lambda c: (c[0].step < stop) & c[3],
                run_segment,
                (state, jnp.zeros(block, dtype), snapshots, ok),
            )
            losses = jax.lax.dynamic_update_slice(losses, block_losses, ((index - first) * block,))
            return state, losses, snapshots, ok

        state, losses, snapshots, _ = jax.lax.while_loop(
            lambda c: (c[0].step < end) & c[3],
            run_block,
            (state, losses, snapshots, jnp.asarray(True)),
        )
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.point)]))
        return state, losses, snapshots, finite

    def _steps(
        self, state: State, losses: Array, ok: Array, until: Array, eps: Array, inputs: Inputs
    ) -> tuple[State, Array, Array]:
        """Plain steps within one block."""
        key = state.key

        def body(carry: Any) -> Any:
            state, losses, _ = carry
            i = state.step % self._block
            model_key = jax.random.fold_in(jax.random.fold_in(key, NEVER), state.step)
            density = functools.partial(self._program.densities, inputs, model_key)
            state, loss = self._algorithm.step(state, eps[i], density)
            return state, losses.at[i].set(loss), jnp.isfinite(loss)

        return jax.lax.while_loop(lambda c: (c[0].step < until) & c[2], body, (state, losses, ok))


@functools.lru_cache(maxsize=16)
def _chunk(program: Program, algorithm: Algorithm, shapes: Any, treedef: Any) -> Chunk:
    return Chunk(program, algorithm, jax.tree.unflatten(treedef, shapes))


def chunk_for(program: Program, algorithm: Algorithm, point: Point) -> Chunk:
    """The compiled chunk for these parts, shared between fits."""
    leaves, treedef = jax.tree.flatten(point)
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    return _chunk(program, algorithm, shapes, treedef)
