"""The arguments a model is bound to: which are data, which are part of the program."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import primitives  # in this form: ArviZ 1.x puts off loading it, and so twice
from numpyro.distributions import Distribution

from numpyro_vi_ext.batching.minibatch import Minibatch
from numpyro_vi_ext.batching.plans import Plan
from numpyro_vi_ext.batching.storage import as_leaf
from numpyro_vi_ext.batching.streaming import Flow, Part, Stream
from numpyro_vi_ext.identity import Unknown, fingerprint

_SETTINGS = (  # of JAX, that change what a traced program is
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_numpy_dtype_promotion",
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Positional and keyword arguments of one model call, leaf by leaf.

    Data leaves (anything with a shape and a numeric dtype, and Python or NumPy floats) are inputs
    of compiled code; all others, and the data leaves listed in `fixed`, are part of the program.

    Parameters
    ----------
    signature : inspect.Signature or None
        Signature of the model, which names the arguments.
    args, kwargs : tuple, dict
        What the model is called with.
    leaves : tuple
        Flattened ``(args, kwargs)``; data leaves are JAX arrays, the full data of a Minibatch, the
        first batch of a Stream.
    names : tuple of str
        One readable name per leaf, such as ``X`` or ``batch['y']``.
    treedef : jax.tree_util.PyTreeDef
        How to rebuild ``(args, kwargs)`` from the leaves.
    is_data : tuple of bool
        Which leaves are data.
    plans : tuple of Plan, Flow or None
        How a step of a fit comes by a batch of a leaf, if a Minibatch or Stream stands for it.
    fixed : frozenset of int
        Positions of data leaves whose values the model needs in Python.
    """

    signature: inspect.Signature | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    treedef: Any
    is_data: tuple[bool, ...]
    plans: tuple[Plan | Flow | None, ...]
    fixed: frozenset[int] = frozenset()

    @classmethod
    def bind(
        cls, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> "Arguments":
        """Take the arguments apart; the data are copied to the device here and only here.

        Raises
        ------
        TypeError
            If the model cannot be called with these arguments, or one is of object dtype.
        """
        signature = _signature(fn, args, kwargs)
        paths, treedef = jax.tree_util.tree_flatten_with_path((tuple(args), dict(kwargs)))
        names = tuple(_leaf_name(path, signature) for path, _ in paths)
        leaves, is_data, plans = [], [], []
        for (_, leaf), name in zip(paths, names, strict=True):
            stored, plan = _split_batch(leaf, name)
            value = as_leaf(stored, name)
            is_data.append(value is not None)
            leaves.append(leaf if value is None else value)
            plans.append(plan)
        known = (signature, tuple(args), dict(kwargs), tuple(leaves), names, treedef)
        return cls(*known, tuple(is_data), tuple(plans))

    @property
    def inputs(self) -> list[int]:
        """Positions of the leaves that are inputs of compiled code."""
        return [i for i, data in enumerate(self.is_data) if data and i not in self.fixed]

    @property
    def data(self) -> tuple[jax.Array, ...]:
        """Values of those leaves."""
        return tuple(self.leaves[i] for i in self.inputs)

    @property
    def streamed(self) -> frozenset[int]:
        """Positions of the leaves of which only the first batch is at hand."""
        return frozenset(i for i, plan in enumerate(self.plans) if plan and plan.origin)

    def is_current(self) -> bool:
        """Whether each Minibatch still holds the data that it held when this was made."""
        given = jax.tree.leaves((self.args, self.kwargs))
        triples = zip(given, self.leaves, self.plans, strict=True)
        return all(plan is None or now.shared is then for now, then, plan in triples)

    def at_batch(self) -> "Arguments":
        """The same with the batch of the first step in the place of each Minibatch or Stream."""
        pairs = zip(self.leaves, self.plans, strict=True)
        batch = (leaf if plan is None else plan.take(leaf, 0) for leaf, plan in pairs)
        return dataclasses.replace(self, leaves=tuple(batch))

    def with_fixed(self, positions: Sequence[int] | frozenset[int]) -> "Arguments":
        """Make these data leaves, and no others, part of the program; JAX keys cannot be."""
        keys = {i for i in self.inputs if jnp.issubdtype(self.leaves[i].dtype, jax.dtypes.prng_key)}
        data = {i for i, data in enumerate(self.is_data) if data}
        return dataclasses.replace(self, fixed=frozenset(positions) & (data - keys))

    def rebuilder(self) -> Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]:
        """A function from the data to the call's ``(args, kwargs)``; it holds no data itself."""
        inputs, treedef = self.inputs, self.treedef
        template = self._program_leaves()
        for i in inputs:
            template[i] = None
        arrays = [i for i in self.fixed if isinstance(template[i], np.ndarray)]

        def rebuild(data: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            leaves = list(template)
            for i in arrays:  # copied, for the model may change in place what it gets by value
                leaves[i] = template[i].copy()
            for i, value in zip(inputs, data, strict=True):
                leaves[i] = value
            return jax.tree.unflatten(treedef, leaves)

        return rebuild

    def program_key(self) -> tuple[Any, ...]:
        """Comparable description of all that is not an input, and of the inputs' types."""
        leaves, inputs = self._program_leaves(), set(self.inputs)
        parts = [
            jax.typeof(x)
            if i in inputs
            else fingerprint(np.asarray(x) if isinstance(x, jax.Array) else x)
            for i, x in enumerate(leaves)
        ]
        settings = [getattr(jax.config, name) for name in _SETTINGS]
        checks = Distribution._validate_args  # as numpyro.enable_validation has set it
        return (*settings, checks, self.treedef, tuple(parts))

    def is_comparable(self) -> bool:
        """Whether another call's `program_key` can be equal to this one's."""
        *_, parts = self.program_key()
        return not any(
            isinstance(value, Unknown)
            for part in parts
            if isinstance(part, dict)
            for value in part.values()
        )

    @property
    def by_name(self) -> dict[str, Any]:
        """What is passed for each argument that is passed."""
        if self.signature is None:
            return self.kwargs
        found = dict(self.signature.bind(*self.args, **self.kwargs).arguments)
        for name, parameter in self.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                found |= found.pop(name, {})
        return found

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the arguments, passed or not."""
        parameters = self.signature.parameters.values() if self.signature else ()
        own = (p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD)
        return tuple(dict.fromkeys((*own, *self.kwargs)))

    @property
    def takes_any(self) -> bool:
        """Whether the model takes keyword arguments of any name."""
        parameters = self.signature.parameters.values() if self.signature else ()
        return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)

    def replace(self, values: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` with some arguments replaced by name.

        Raises
        ------
        KeyError
            If the model has no argument of that name.
        """
        parameters = dict(self.signature.parameters) if self.signature else {}
        kinds = [p.kind for p in parameters.values()]
        known = [n for n, p in parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        args, kwargs = list(self.args), dict(self.kwargs)
        for name, value in values.items():
            position = known.index(name) if name in known else len(args)
            if name in kwargs:
                kwargs[name] = value
            elif name in known and kinds[position] is inspect.Parameter.VAR_POSITIONAL:
                args[position:] = value
            elif position < len(args) and inspect.Parameter.VAR_POSITIONAL not in kinds[:position]:
                args[position] = value
            elif name in known or self.takes_any:
                kwargs[name] = value
            else:
                raise KeyError(
                    f"the model has no argument {name!r}; its arguments are {sorted(self.known)}"
                )
        return tuple(args), kwargs

    def _program_leaves(self) -> list[Any]:
        """Leaves as the model sees them; those that are fixed as they came, but writable copies."""
        leaves = list(self.leaves)
        if self.fixed:
            originals = jax.tree.leaves((self.args, self.kwargs))
            for i in self.fixed:
                is_array = isinstance(originals[i], np.ndarray | Minibatch | Stream | Part)
                leaves[i] = np.array(leaves[i]) if is_array else originals[i]
        return leaves


def _signature(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> inspect.Signature | None:
    """Signature of the function under NumPyro's handlers; None if it has none.

    A decorated function is taken to have the arguments of the one it wraps, if they fit.
    """
    inner = fn
    while isinstance(inner, primitives.Messenger) and inner.fn is not None:
        inner = inner.fn
    try:
        outer = inspect.signature(inner, follow_wrapped=False)
        candidates = (inspect.signature(inner), outer)
    except (TypeError, ValueError):
        return None
    reason: TypeError | None = None
    for signature in candidates:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            reason = error
        else:
            return signature
    raise TypeError(
        f"the model {getattr(inner, '__name__', type(inner).__name__)}{outer} cannot be called "
        f"with model_args of length {len(args)} and model_kwargs {sorted(kwargs)}: {reason}"
    )


def _leaf_name(path: tuple[Any, ...], signature: inspect.Signature | None) -> str:
    where, *rest = path
    if where.idx == 1:  # keyword arguments
        return f"{rest[0].key}{jax.tree_util.keystr(tuple(rest[1:]))}"
    position, tail = rest[0].idx, jax.tree_util.keystr(tuple(rest[1:]))
    for i, p in enumerate(signature.parameters.values() if signature else ()):
        if p.kind is inspect.Parameter.VAR_POSITIONAL:
            return f"{p.name}[{position - i}]{tail}"
        if i == position:
            return f"{p.name}{tail}"
    return f"model_args[{position}]{tail}"


def _split_batch(leaf: Any, name: str) -> tuple[Any, Plan | Flow | None]:
    """The data at hand of a Minibatch or Stream, and its plan; anything else as it is."""
    if isinstance(leaf, Stream | Part):
        part = leaf.whole(name)
        return part.shared, part.plan
    if not isinstance(leaf, Minibatch):
        return leaf, None
    if len(leaf.parts) > 1:
        raise TypeError(
            f"model argument {name!r} is a Minibatch of {len(leaf.parts)} arrays; unpack it, as in "
            "X_mb, y_mb = minibatch, and pass each for an argument of its own"
        )
    return leaf.shared, leaf.plan
