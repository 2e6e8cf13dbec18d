"""What a model depends on: changed, it is never stale; unchanged, it is not traced again."""

import collections
import contextvars
import dataclasses
import enum
import functools
import sys
import threading
import types
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

from numpyro_vi_ext.identity import Unknown, fingerprint
from numpyro_vi_ext.model import Model

RUNS: list[int] = []  # every model here writes down its runs, which is not a change
CHANGES: dict[str, Any] = {}


def prior(loc):
    RUNS.append(1)
    numpyro.sample("x", dist.Normal(loc, 1.0))


def density(model) -> float:
    """Of the model at x = 0, which tells its prior mean."""
    return float(Model(model).log_density(jnp.zeros(1)))


def exact(loc: float) -> float:
    return -0.5 * loc**2 - 0.5 * np.log(2 * np.pi)


def runs_of(model) -> int:
    before = len(RUNS)
    density(model)
    return len(RUNS) - before


def change(fn):
    """Register a scenario: a model, and a function that sets its prior mean."""
    CHANGES[fn.__name__] = fn
    return fn


# -- functions


@change
def closure_cell():
    loc = 1.0

    def set_loc(value):
        nonlocal loc
        loc = value

    return lambda: prior(loc), set_loc


GLOBAL = 1.0


@change
def global_name():
    return lambda: prior(GLOBAL), lambda value: globals().update(GLOBAL=value)


@change
def global_of_a_nested_function():
    def model():
        def inner():
            return [GLOBAL for _ in range(1)]

        prior(inner()[0])

    return model, lambda value: globals().update(GLOBAL=value)


def helper():
    return deeper_helper()


def deeper_helper():
    return GLOBAL


@change
def global_of_a_helper():
    return lambda: prior(helper()), lambda value: globals().update(GLOBAL=value)


@change
def helper_redefined():
    def set_loc(value):
        globals()["deeper_helper"] = lambda: 1.0 * value

    return lambda: prior(helper()), set_loc


@change
def code_replaced():
    def one():
        return 1.0

    def two():
        return 2.0

    def loc():
        return 0.0

    def set_loc(value):
        loc.__code__ = {1.0: one, 2.0: two}[value].__code__

    return lambda: prior(loc()), set_loc


@change
def default_argument():
    def model(loc=1.0):
        prior(loc)

    return model, lambda value: setattr(model, "__defaults__", (value,))


@change
def keyword_default():
    def model(*, loc=1.0):
        prior(loc)

    return model, lambda value: model.__kwdefaults__.update(loc=value)


@change
def function_attribute():
    def model():
        prior(model.loc)

    return model, lambda value: setattr(model, "loc", value)


@change
def bound_in_a_partial():
    add = functools.partial(max, 0.0)
    box = [1.0]
    return lambda: prior(functools.partial(add, -1.0)(box[0])), lambda v: box.__setitem__(0, v)


@change
def argument_of_a_closed_over_partial():
    options = {"loc": 1.0}
    bound = functools.partial(lambda options: options["loc"], options)
    return lambda: prior(bound()), lambda value: options.update(loc=value)


@change
def jitted_helper():
    jitted = jax.jit(lambda x: x + GLOBAL)

    def set_loc(value):
        globals()["GLOBAL"] = value
        jitted.clear_cache()

    return lambda: prior(jitted(0.0)), set_loc


@change
def mapped_partial():
    mapped = jax.vmap(functools.partial(lambda a, x: a * x * helper(), 1.0))
    return lambda: prior(mapped(jnp.ones(1))[0]), lambda value: globals().update(GLOBAL=value)


@change
def decorated_by_a_library():
    @functools.lru_cache
    def half():
        return GLOBAL / 2

    def set_loc(value):
        globals()["GLOBAL"] = value
        half.cache_clear()

    return lambda: prior(2 * half()), set_loc


@change
def method_of_a_built_in():
    table = {"loc": 1.0}
    lookup = table.get
    return lambda: prior(lookup("loc")), lambda value: table.update(loc=value)


@change
def far_down_the_list_of_names():
    lines = [f"    v.a{i}" for i in range(300)]
    source = "\n".join(["def model():", "    v = box", *lines, "    prior(settings.LOC)"])
    settings = module_named("far_settings")
    names = {"box": types.SimpleNamespace(**{f"a{i}": i for i in range(300)}), "prior": prior}
    exec(source, scope := {**names, "settings": settings, "__name__": "far"})
    return scope["model"], lambda value: setattr(settings, "LOC", value)


# -- modules


def module_named(name):
    module = types.ModuleType(name)
    module.LOC = 1.0
    sys.modules[name] = module
    return module


@change
def module_attribute():
    settings = module_named("settings_of_a_test")
    return lambda: prior(settings.LOC), lambda value: setattr(settings, "LOC", value)


@change
def module_under_a_local_name():
    settings = globals()["SETTINGS"] = module_named("settings_of_a_test")

    def model():
        local = SETTINGS  # noqa: F821
        prior(getattr(local, "LOC"))  # noqa: B009

    return model, lambda value: setattr(settings, "LOC", value)


@change
def imported_inside():
    settings = module_named("settings_of_a_test")

    def model():
        import settings_of_a_test

        prior(settings_of_a_test.LOC)

    return model, lambda value: setattr(settings, "LOC", value)


@change
def name_imported_inside():
    settings = module_named("settings_of_a_test")

    def model():
        from settings_of_a_test import LOC

        prior(LOC)

    return model, lambda value: setattr(settings, "LOC", value)


@change
def relative_import_inside():
    package = module_named("package_of_a_test")
    package.__path__ = []
    settings = module_named("package_of_a_test.settings")
    package.settings = settings
    source = "def model():\n    from .settings import LOC\n    prior(LOC)"
    exec(source, scope := {"prior": prior, "__package__": package.__name__, "__name__": "own"})
    return scope["model"], lambda value: setattr(settings, "LOC", value)


@change
def module_named_like_one_of_the_standard_library():
    source = "LOC = 1.0\ndef loc(): return LOC\ndef model(): prior(loc())"
    exec(source, scope := {"prior": prior, "__name__": "test"})
    return scope["model"], lambda value: scope.update(LOC=value)


# -- objects


class Plain:
    loc = 1.0

    def __init__(self):
        self.other = "x"

    def model(self):
        prior(self.loc)

    def __call__(self):
        prior(self.loc)


@change
def attribute_of_a_bound_method():
    obj = Plain()
    return obj.model, lambda value: setattr(obj, "loc", value)


@change
def attribute_of_a_callable():
    obj = Plain()
    return obj, lambda value: setattr(obj, "loc", value)


@change
def class_attribute():
    return Plain().model, lambda value: setattr(Plain, "loc", value)


@change
def class_attribute_of_an_object_without_any():
    class Config:
        loc = 1.0

    config = Config()
    return lambda: prior(config.loc), lambda value: setattr(Config, "loc", value)


@change
def class_attribute_inherited():
    class Base:
        loc = 1.0

    class Config(Base): ...

    return lambda: prior(Config.loc), lambda value: setattr(Base, "loc", value)


@change
def method_replaced():
    class Config:
        def loc(self):
            return 1.0

    config = Config()

    def set_loc(value):
        Config.loc = lambda self: 1.0 * value

    return lambda: prior(config.loc()), set_loc


@change
def read_by_a_property():
    class Config:
        @property
        def loc(self):
            return GLOBAL

    config = Config()
    return lambda: prior(config.loc), lambda value: globals().update(GLOBAL=value)


@change
def read_by_a_static_and_a_class_method():
    class Config:
        @staticmethod
        def half():
            return GLOBAL / 2

        @classmethod
        def loc(cls):
            return 2 * cls.half()

    return lambda: prior(Config.loc()), lambda value: globals().update(GLOBAL=value)


@change
def slots():
    class Config:
        __slots__ = ("__hidden", "loc")

    config = Config()
    return lambda: prior(config.loc), lambda value: setattr(config, "loc", value)


@change
def data_class():
    @dataclasses.dataclass
    class Config:
        loc: float
        names: list["Config"] = dataclasses.field(default_factory=list)

    config = Config(1.0)
    return lambda: prior(config.loc), lambda value: setattr(config, "loc", value)


@change
def name_space():
    config = types.SimpleNamespace(loc=1.0, link=lambda x: x)
    return lambda: prior(config.link(config.loc)), lambda value: setattr(config, "loc", value)


class Pair(NamedTuple):
    loc: Any
    scale: float = 1.0


@change
def named_tuple():
    box = {"pair": Pair(1.0)}
    return lambda: prior(box["pair"].loc), lambda value: box.update(pair=Pair(value))


@change
def enumeration():
    class Kind(enum.Enum):
        ONE = 1.0
        TWO = 2.0

    box = [Kind.ONE]
    return lambda: prior(box[0].value), lambda value: box.__setitem__(0, Kind(value))


class Reduced:
    factor = 1.0

    def __init__(self, loc):
        self.loc = loc

    def __reduce__(self):
        return Reduced, (self.loc,)


@change
def object_with_a_pickle_of_its_own():
    obj = Reduced(1.0)
    return lambda: prior(obj.loc), lambda value: setattr(obj, "loc", value)


@change
def class_of_an_object_with_a_pickle_of_its_own():
    obj = Reduced(1.0)
    return lambda: prior(obj.factor), lambda value: setattr(Reduced, "factor", value)


@change
def marker():
    class Marker: ...

    one, two = Marker(), Marker()
    box = [one]

    def set_loc(value):
        box[0] = one if value == 1 else two

    return lambda: prior(1.0 if box[0] is one else 2.0), set_loc


@change
def distribution():
    box = [dist.Normal(1.0, 1.0)]
    return lambda: prior(box[0].loc), lambda value: box.__setitem__(0, dist.Normal(value, 1.0))


@change
def data_of_a_handler():
    data = {"loc": 1.0}

    def model():
        prior(numpyro.sample("loc", dist.Normal(0, 1)) * 1.0)

    # the density of loc itself is divided out by a factor
    def corrected():
        model()
        numpyro.factor("undo", -dist.Normal(0, 1).log_prob(data["loc"]))

    return handlers.condition(corrected, data=data), lambda value: data.update(loc=value)


# -- containers


@change
def nested_containers():
    config = {"a": [0, ({"loc": 1.0},)]}
    return (
        lambda: prior(config["a"][1][0]["loc"]),
        lambda value: config["a"][1][0].update(loc=value),
    )


@change
def list_length():
    values = [1.0]
    return lambda: prior(sum(values)), lambda value: values.__setitem__(
        slice(None), [1.0] * int(value)
    )


@change
def long_list():
    values = [1.0] * 2000
    return lambda: prior(values[1500]), lambda value: values.__setitem__(1500, value)


@change
def long_list_of_objects():
    values = [Pair([1.0]) for _ in range(1100)]
    return lambda: prior(values[1050].loc[0]), lambda v: values[1050].loc.__setitem__(0, v)


@change
def long_dict():
    values = {i: 1.0 for i in range(2000)}
    return lambda: prior(values[1500]), lambda value: values.update({1500: value})


@change
def order_of_a_dict():
    values = {}

    def set_loc(value):
        values.clear()
        values.update({1.0: {"a": 1.0, "b": 2.0}, 2.0: {"b": 2.0, "a": 1.0}}[value])

    return lambda: prior(next(iter(values.values()))), set_loc


@change
def set_of_values():
    values = {1.0}
    return lambda: prior(max(values)), lambda value: (values.clear(), values.add(value))


@change
def set_of_objects():
    obj = Plain()
    values = {obj}
    return lambda: prior(max(o.loc for o in values)), lambda value: setattr(obj, "loc", value)


@change
def double_ended_queue():
    values = collections.deque([1.0])
    return lambda: prior(values[0]), lambda value: values.__setitem__(0, value)


@change
def subclass_of_dict():
    class Config(dict):
        shift = 0.0

    config = Config(loc=1.0)
    return lambda: prior(config["loc"] + config.shift), lambda value: config.update(loc=value)


@change
def attribute_of_a_subclass_of_list():
    class Config(list): ...

    config = Config()
    return lambda: prior(config.loc), lambda value: setattr(config, "loc", value)


@change
def view_of_a_mapping():
    values = {"loc": 1.0}
    view = types.MappingProxyType(values)
    return lambda: prior(view["loc"]), lambda value: values.update(loc=value)


# -- arrays


@change
def array_in_place():
    values = np.ones(3)
    return lambda: prior(values[1]), lambda value: values.__setitem__(1, value)


def observing(use):
    """Scenarios in which an array reaches JAX as a whole; the factor makes up for its density."""

    def scenario(dtype):
        values = np.ones(3, dtype)

        def model():
            x = numpyro.sample("x", dist.Normal(0.0, 1.0))
            RUNS.append(1)
            loc = use(values)
            numpyro.factor("moved", loc * x - 0.5 * loc**2)

        return model, lambda value: values.__setitem__(slice(None), value)

    return scenario


for _dtype in ("float64", "float32", "int64", "uint8"):
    CHANGES |= {
        f"{_dtype}_array_in_place": functools.partial(
            observing(lambda values: jnp.asarray(values).mean()), _dtype
        ),
        f"{_dtype}_array_in_place_inside_jit": functools.partial(
            observing(lambda values: jax.jit(lambda x: x * jnp.mean(values))(1.0)), _dtype
        ),
        f"{_dtype}_array_in_place_inside_control_flow": functools.partial(
            observing(
                lambda values: jax.lax.scan(
                    lambda c, i: jax.lax.cond(
                        i > 0, lambda: (jnp.asarray(values)[i] * 1.0, c), lambda: (c, c)
                    ),
                    0.0,
                    jnp.arange(3),
                )[0]
            ),
            _dtype,
        ),
    }


@change
def array_view_in_place():
    values = np.ones((4, 4))
    part = values[::2, 1::2]
    return lambda: prior(part[1, 0]), lambda value: values.__setitem__(slice(None), value)


@change
def array_of_structures():
    values = np.array([(1.0, 2)], dtype=[("loc", "f8"), ("n", "i4")])
    return lambda: prior(values["loc"][0]), lambda value: values["loc"].__setitem__(0, value)


@change
def array_of_objects():
    values = np.array([[None, 1.0]], dtype=object)
    return lambda: prior(values[0, 1]), lambda value: values.__setitem__((0, 1), value)


@change
def array_of_one_object():
    values = np.array(None, dtype=object)
    return lambda: prior(values[()]), lambda value: values.__setitem__((), value)


@change
def mask_of_an_array():
    values = np.ma.array([1.0, 2.0], mask=[False, True])

    def set_loc(value):
        values.mask = [value == 2, value == 1]

    return lambda: prior(float(values.sum())), set_loc


@change
def jax_array():
    box = {"loc": jnp.ones(2)}
    return lambda: prior(box["loc"][0]), lambda value: box.update(loc=jnp.full(2, value))


@change
def numpy_scalar():
    box = [np.float32(1)]
    return lambda: prior(box[0]), lambda value: box.__setitem__(0, np.float32(value))


# -- state that the model itself changes


@change
def attribute_beside_one_set_by_the_model():
    class Lazy(Plain):
        def model(self):
            self.size = 3  # new at the first run
            self.calls = getattr(self, "calls", 0) + 1
            prior(self.loc)

    obj = Lazy()
    return obj.model, lambda value: setattr(obj, "loc", value)


@change
def entry_beside_one_added_by_the_model():
    config = {"loc": 1.0}

    def model():
        config["seen"] = True
        config["calls"] = config.get("calls", 0) + 1
        prior(config["loc"])

    return model, lambda value: config.update(loc=value)


@change
def entry_filled_in_by_the_model():
    cache = {}

    def model():
        if "loc" not in cache:
            cache["loc"] = 1.0
        prior(cache["loc"])

    return model, lambda value: cache.update(loc=value)


@pytest.fixture
def _restored(monkeypatch):
    """Whatever a scenario sets globally is put back."""
    monkeypatch.setitem(globals(), "GLOBAL", 1.0)
    monkeypatch.setitem(globals(), "deeper_helper", deeper_helper)
    monkeypatch.setattr(Plain, "loc", 1.0)
    monkeypatch.setattr(Reduced, "factor", 1.0)
    modules = dict(sys.modules)
    yield
    for name in set(sys.modules) - set(modules):
        if name.endswith("_of_a_test") or "_of_a_test." in name or name == "far_settings":
            del sys.modules[name]


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("scenario", CHANGES)
def test_change_is_seen_and_its_absence_costs_nothing(scenario):
    model, set_loc = CHANGES[scenario]()
    set_loc(1.0)
    np.testing.assert_allclose(density(model), exact(1.0), rtol=1e-6)
    assert runs_of(model) == 0
    set_loc(2.0)
    np.testing.assert_allclose(density(model), exact(2.0), rtol=1e-6)
    assert runs_of(model) == 0
    set_loc(1.0)
    np.testing.assert_allclose(density(model), exact(1.0), rtol=1e-6)
    assert runs_of(model) == 0


# -- what cannot be told costs a trace, never a wrong value


def test_generator_in_the_closure():
    values = iter_once(3.0)
    model = lambda: prior(next(values))  # noqa: E731
    np.testing.assert_allclose(density(model), exact(3.0), rtol=1e-6)
    values = iter_once(4.0)
    np.testing.assert_allclose(density(model), exact(4.0), rtol=1e-6)


def iter_once(value):
    while True:
        yield value


def test_generator_advanced_elsewhere():
    values = (1.0 * i for i in range(100) for _ in range(2))  # a trace runs the model twice
    model = lambda: prior(next(values))  # noqa: E731
    np.testing.assert_allclose(density(model), exact(0.0), rtol=1e-6)
    next(values), next(values)
    np.testing.assert_allclose(density(model), exact(2.0), rtol=1e-6)


def test_context_variable():
    loc = contextvars.ContextVar("loc", default=1.0)
    model = lambda: prior(loc.get())  # noqa: E731
    np.testing.assert_allclose(density(model), exact(1.0), rtol=1e-6)
    loc.set(2.0)
    np.testing.assert_allclose(density(model), exact(2.0), rtol=1e-6)


@pytest.mark.parametrize(
    "inert",
    [
        threading.Lock(),
        threading.RLock(),
        threading.Condition(),
        sys.__stdout__,
        weakref.ref(Plain),
        jax.devices()[0],
        float("nan"),
        10**5000,
        np.zeros((0, 3)),
        np.array(["a", ""]),
        np.zeros(2, "U0"),
        np.array(["2020-01-01"], "datetime64[D]"),
        functools.singledispatch(lambda x: x),
        functools.cached_property(lambda self: 1),
        range(3),
        object(),
        collections.abc.Sized,
        NamedTuple,
        np.random.default_rng(0),
        __import__("re").compile("a+"),
        __import__("logging").getLogger("x"),
        __import__("pathlib").Path("."),
        __import__("decimal").Decimal("1.5"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_harmless_things_in_the_closure_cost_nothing(inert):
    def model():
        str(type(inert))
        prior(1.0)

    np.testing.assert_allclose(density(model), exact(1.0), rtol=1e-6)
    assert runs_of(model) == 0


def test_output_stream_costs_nothing():
    def model():
        print(end="", file=sys.stdout)
        prior(1.0)

    density(model)
    assert runs_of(model) == 0


# -- equal is the same


def test_model_made_anew_from_equal_parts_is_not_traced_again():
    def make(loc):
        weights = np.array([loc, 2.0])
        options = {"names": ["a", "b"], "link": lambda x: x, "pair": Pair(1.0)}

        def model():
            prior(options["link"](weights[0]))

        return handlers.condition(model, data={"unused": weights})

    density(make(1.0))
    assert runs_of(make(1.0)) == 0
    assert runs_of(make(3.0)) > 0


def test_lambdas_on_one_line_are_told_apart():
    one, two = lambda: prior(1.0), lambda: prior(2.0)
    np.testing.assert_allclose([density(one), density(two)], [exact(1.0), exact(2.0)], rtol=1e-6)


def test_zeros_of_both_signs_and_types_are_told_apart():
    values = [0, 0.0, -0.0, False, np.float32(0), "0", None]
    assert len({repr(fingerprint(v)) for v in values}) == len(values)
    assert all(fingerprint(v) == fingerprint(v) for v in values)


def test_cycles_end():
    loop: list[Any] = [1.0]
    loop.append({"self": loop})
    assert fingerprint(loop) == fingerprint(loop)
    other: list[Any] = [1.0]
    other.append({"self": other})
    assert fingerprint(loop) == fingerprint(other)
    other[1]["self"] = [1.0]
    assert fingerprint(loop) != fingerprint(other)


def test_very_large_object_counts_as_unknown():
    found = fingerprint([[object() for _ in range(1000)] for _ in range(250)])
    assert [type(v) for v in found.values()] == [Unknown]


def test_fitted_result_kept_by_the_model_is_not_taken_apart():
    class Study:
        result = None

        def model(self):
            prior(1.0)

    study = Study()
    size = len(fingerprint(study.model))
    study.result = Model(study.model)
    assert study.result.latents == ("x",)
    assert len(fingerprint(study.model)) < size + 30


# -- counters


def test_counters_are_no_change():
    count = 0
    calls: list[str] = []
    by_name = collections.Counter()

    def model(y):
        nonlocal count
        count += 1
        calls.append("run")
        by_name["model"] += 1
        x = numpyro.sample("x", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 1), obs=y)

    for size in (3, 4):
        for y in (np.zeros(size), np.ones(size), np.ones(size)):
            Model(model, y).log_density(jnp.zeros(1))
    assert count == len(calls) == by_name["model"] == 4  # two runs for each of the two sizes
    calls.clear()
    count = 0
    for size in (3, 4):
        Model(model, np.zeros(size)).log_density(jnp.zeros(1))
    assert count == len(calls) == 0


def test_attribute_that_follows_the_data_settles():
    class Study:
        runs = 0

        def model(self, y):
            type(self).runs += 1
            self.size = len(y)
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)

    study = Study()
    for size in (3, 4, 3, 4):
        Model(study.model, np.zeros(size)).latents  # noqa: B018
    settled = Study.runs
    for size in (3, 4, 4, 3, 3):
        Model(study.model, np.zeros(size)).latents  # noqa: B018
    assert Study.runs == settled


def test_walk_is_quick_for_large_arrays_and_many_names():
    import time

    data = np.zeros((2000, 500))
    model = lambda: prior(data[0, 0])  # noqa: E731
    fingerprint(model)
    begin = time.perf_counter()
    fingerprint(model)
    assert time.perf_counter() - begin < 0.5
