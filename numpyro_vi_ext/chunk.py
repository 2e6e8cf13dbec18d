"""Compiled chunks of steps."""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from numpyro_vi_ext.algorithm import Algorithm, Point, State, in_frame, is_finite
from numpyro_vi_ext.blocks import in_blocks
from numpyro_vi_ext.feeding import Fed, Feed
from numpyro_vi_ext.objectives import Objective
from numpyro_vi_ext.recording import Inputs
from numpyro_vi_ext.tracing import Program

Array = jax.Array

MAX_STEPS = 2**17  # the most steps in one chunk
NEVER = 2**31 - 1  # as `every`: no snapshots are wanted

_BLOCK_STEPS, _BLOCK_NUMBERS = 128, 8192  # noise is drawn for so many steps, and numbers, at once
_SNAPSHOTS, _SNAPSHOT_BYTES = 4096, 2**22  # what a chunk may record for callbacks


class _Carry(NamedTuple):
    """What the loops of a chunk hand on."""

    state: State
    losses: Array
    snapshots: Point | None
    ok: Array


class Chunk:
    """A compiled run of any number of steps up to a limit, with snapshots on the way.

    Steps are grouped in blocks, aligned to the step count, whose noise is drawn at once; so the
    result of a step depends on neither the start nor the length of the chunk it is computed in.
    """

    def __init__(self, fed: Fed, algorithm: Algorithm, point: Point) -> None:
        noise = jax.eval_shape(
            lambda key: algorithm.objective.noise(key, 1, point.q.ndim, float), jax.random.key(0)
        )
        data, _ = fed.inputs
        rows = jax.eval_shape(lambda data: fed.feed.draw(data, 0, 1), data)
        numbers = max(1, noise.size + sum(x.size for x in jax.tree.leaves(rows)))
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(point))
        self._program, self._feed, self._algorithm = fed.program, fed.feed, algorithm
        self._block = 2 * max(1, min(_BLOCK_STEPS, _BLOCK_NUMBERS // numbers) // 2)
        self.snapshots: int = max(1, min(_SNAPSHOTS, _SNAPSHOT_BYTES // max(1, size)))
        self._compiled = jax.jit(self._run)
        self._compiled_lanes = jax.jit(self._run_lanes)

    def __call__(
        self, state: State, inputs: Inputs, end: int, every: int
    ) -> tuple[State, np.ndarray, Point, bool]:
        """Run until the state has taken `end` steps, or until one goes wrong.

        Returns
        -------
        state : State
        losses : array
            One per step taken, the offending one included.
        snapshots : Point
            The results at the multiples of `every` passed, stacked; in the frame.
        finite : bool
            Whether all went well, up to steps that were skipped.
        """
        begin = int(state.step)
        after, losses, snapshots, finite = self._compiled(
            dataclasses.replace(state, frame=None),
            state.frame,
            inputs,
            np.int32(end),
            np.int32(min(every, NEVER)),
        )
        after = dataclasses.replace(after, frame=state.frame)
        offset = begin % self._block
        losses = np.asarray(losses)[offset : offset + int(after.step) - begin]
        return after, losses, snapshots, bool(finite)

    def side_by_side(self, state: State, inputs: Inputs, end: int) -> State:
        """Run several fits, which share step and key, until they have taken `end` steps.

        One that goes wrong stays where it was last finite.
        """
        return self._compiled_lanes(state, inputs, np.int32(end))

    def _run_lanes(self, state: State, inputs: Inputs, end: Array) -> State:
        axes: Any = State(0, 0, 0, 0, None, None, None)  # type: ignore
        frame, lanes = state.frame, self._with(skips=True, gives_up=False)

        def one(state: State, frame: Any) -> State:
            return lanes._run(state, frame, inputs, end, jnp.int32(NEVER))[0]

        alone = dataclasses.replace(state, frame=None)
        after = jax.vmap(one, (axes, 0), axes)(alone, frame)
        return dataclasses.replace(after, frame=frame)

    def next_point(self, state: State, inputs: Inputs) -> Point:
        """Where the next step leads, good or bad: for a look at what is wrong with it."""
        plain = self._with(skips=False)
        return plain(state, inputs, int(state.step) + 1, NEVER)[0].point

    def _with(self, **changes: bool) -> "Chunk":
        """The same with some settings of the algorithm changed."""
        other = copy.copy(self)
        other._algorithm = dataclasses.replace(self._algorithm, **changes)  # type: ignore
        other._compiled = jax.jit(other._run)
        return other

    def log_probs(self, state: State, inputs: Inputs) -> dict[str, Array]:
        """Log density of each site at the points where the next step evaluates the model, (n,)."""
        index, offset = divmod(int(state.step), self._block)
        data, constants = inputs
        eps = self._noise(state, index)[offset]
        points = jnp.asarray(self._algorithm.objective.points(state.point.q, eps))
        if state.frame is not None:
            points = jax.vmap(state.frame.transform)(points)
        batch = self._feed.at_step(data, state.step)
        key, theta = self.model_key(state), state.point.theta
        evaluate = self._program.evaluate.apply
        return in_blocks(lambda z: evaluate(constants, z, theta, key, batch).site_log_prob, points)

    @property
    def objective(self) -> Objective:
        """What the steps descend on."""
        return self._algorithm.objective

    def model_key(self, state: State) -> Array:
        """Key that the model's own randomness (subsampling) has in the next step."""
        return jax.random.fold_in(jax.random.fold_in(state.key, NEVER), state.step)

    @property
    def _drops_afterwards(self) -> bool:
        """Whether it is after a step that it is dropped; side by side, each step drops itself."""
        return self._algorithm.skips and self._algorithm.gives_up

    def _noise(self, state: State, index: Any) -> Array:
        """Noise of the steps of one block."""
        key = jax.random.fold_in(state.key, index)
        ndim, dtype = state.point.q.ndim, jnp.result_type(float)
        return self._algorithm.objective.noise(key, self._block, ndim, dtype)

    def _run(self, state: State, frame: Any, inputs: Inputs, end: Array, every: Array) -> Any:
        """All blocks up to `end`; the frame is no part of what the loops change."""
        size, begin = self._block, state.step

        def run_block(carry: _Carry) -> _Carry:
            index = carry.state.step // size
            noise = self._noise(carry.state, index), self._feed.draw(inputs[0], index * size, size)
            stop = jnp.minimum(end, (index + 1) * size)
            step = functools.partial(self._run_step, inputs, frame, noise)
            segment = functools.partial(self._run_segment, step, begin, stop, every)
            block = carry._replace(losses=jnp.zeros(size, carry.losses.dtype))
            block = _while(stop, segment, block)
            where = (index - begin // size) * size
            losses = jax.lax.dynamic_update_slice(carry.losses, block.losses, (where,))
            return block._replace(losses=losses)

        losses = jnp.zeros((MAX_STEPS // size + 2) * size, jnp.result_type(float))
        # one slot more than asked for takes the results at block ends that are not due
        slots = self.snapshots + 1
        empty = lambda x: jnp.zeros((slots, *x.shape), x.dtype)  # noqa: E731
        snapshots = jax.tree.map(empty, state.framed_result)
        carry = _while(end, run_block, _Carry(state, losses, snapshots, jnp.asarray(True)))
        finite = carry.ok & is_finite(carry.state.point)
        return carry.state, carry.losses, carry.snapshots, finite

    def _run_segment(
        self,
        run_step: Callable[[_Carry], _Carry],
        begin: Array,
        stop: Array,
        every: Array,
        carry: _Carry,
    ) -> _Carry:
        """Steps of one block up to the next snapshot, and the snapshot."""
        step = carry.state.step
        until = step + jnp.minimum(stop - step, every - step % every)
        carry = self._run_steps(run_step, until, carry)
        state = carry.state
        slot = jnp.minimum((state.step - 1) // every - begin // every, self.snapshots)
        set_slot = lambda s, x: s.at[slot].set(x)  # noqa: E731
        snapshots = jax.tree.map(set_slot, carry.snapshots, state.framed_result)
        return carry._replace(snapshots=snapshots)

    def _run_steps(self, run_step: Callable[[_Carry], _Carry], end: Array, carry: _Carry) -> _Carry:
        """Steps up to `end`, or to the first bad one; where such are skipped, around all of them.

        Those before a bad one are made again, up to it: steps cost no more while all is well.
        """
        if not self._drops_afterwards:
            return _while(end, run_step, carry)
        algorithm = self._algorithm

        def attempt(tried: tuple[_Carry, Array]) -> tuple[_Carry, Array]:
            before, stop = (
                tried  # `stop` is before `end` where the step after it is known to be bad
            )
            after = _while(stop, run_step, before)
            reached = _where(stop < end, algorithm.drop(after.state), after.state)
            state = _where(after.ok, reached, before.state)
            stop = jnp.where(after.ok, end, after.state.step - 1)
            return after._replace(state=state, ok=algorithm.puts_up_with(state)), stop

        first = carry._replace(snapshots=None), end
        done, _ = jax.lax.while_loop(lambda tried: _is_under_way(end, tried[0]), attempt, first)
        return done._replace(snapshots=carry.snapshots)

    def _run_step(
        self, inputs: Inputs, frame: Any, noise: tuple[Array, Any], carry: _Carry
    ) -> _Carry:
        """One step; `noise` is that of the whole block, for draws of q and of rows."""
        state, i = carry.state, carry.state.step % self._block
        (eps, rows), (data, constants) = noise, inputs
        density = functools.partial(
            self._program.densities,
            (self._feed.take(data, rows, i), constants),
            self.model_key(state),
            scales=self._feed.scales,
        )
        algorithm, density = self._algorithm, in_frame(density, frame)
        if self._drops_afterwards:
            state, loss = algorithm.attempt(state, eps[i], density)
            ok = jnp.isfinite(loss)
        else:
            state, loss = algorithm.step(state, eps[i], density)
            ok = algorithm.goes_on(state, loss)
        return carry._replace(state=state, losses=carry.losses.at[i].set(loss), ok=ok)


def _while(end: Array, body: Callable[[_Carry], _Carry], carry: _Carry) -> _Carry:
    """Repeat until step `end`, or until something goes wrong."""
    return jax.lax.while_loop(functools.partial(_is_under_way, end), body, carry)


def _is_under_way(end: Array, carry: _Carry) -> Array:
    return (carry.state.step < end) & carry.ok


def _where(which: Array, one: State, other: State) -> State:
    return jax.tree.map(functools.partial(jnp.where, which), one, other)


@functools.lru_cache(maxsize=16)
def _chunk(program: Program, feed: Feed, algorithm: Algorithm, shapes: Any, treedef: Any) -> Chunk:
    inputs, point = jax.tree.unflatten(treedef, shapes)
    return Chunk(Fed(program, feed, inputs), algorithm, point)


def chunk_for(fed: Fed, algorithm: Algorithm, point: Point) -> Chunk:
    """The compiled chunk for these parts, shared between fits."""
    leaves, treedef = jax.tree.flatten((fed.inputs, point))
    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    return _chunk(fed.program, fed.feed, algorithm, shapes, treedef)
