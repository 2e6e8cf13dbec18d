"""Sites and their places in the flat vector."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import zoo

from numpyro_vi_ext.model import Model


def layout_of(model, *args, **kwargs):
    return Model(model, *args, **kwargs).target.layout


def test_sites_follow_each_other_in_trace_order():
    layout = layout_of(zoo.supports)
    assert [s.name for s in layout.latents][:3] == ["simplex", "ordered", "corr_cholesky"]
    begin = 0
    for site in layout.latents:
        assert site.slice == slice(begin, begin + int(np.prod(site.unconstrained_shape)))
        begin = site.slice.stop
    assert layout.ndim == begin
    shapes = {s.name: (s.unconstrained_shape, s.shape) for s in layout.latents}
    assert shapes["simplex"] == ((2,), (3,))
    assert shapes["corr_cholesky"] == ((3,), (3, 3))
    assert shapes["positive"] == ((2, 2), (2, 2))


def test_split():
    layout = layout_of(zoo.scalars_and_matrices)
    z = np.arange(2 * layout.ndim).reshape(2, layout.ndim)
    parts = layout.split(z)
    assert {k: v.shape for k, v in parts.items()} == {
        "a": (2,),
        "m": (2, 2, 3),
        "b": (2,),
        "v": (2, 3),
    }
    np.testing.assert_array_equal(parts["m"][0], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(parts["v"][1], [19, 20, 21])


def test_kinds_of_sites():
    layout = layout_of(zoo.regression_with_factor, zoo.X, zoo.Y)
    assert layout.observed == ()  # factors are not data
    assert layout.deterministics == ("fitted",)
    assert layout_of(zoo.params, zoo.Y).params == ("centre", "sd", "weights", "drawn")
    assert layout_of(zoo.simple, zoo.Y).observed == ("y",)


def test_plates_name_the_axes():
    dims = layout_of(zoo.nested_plates).dims
    assert dims == {
        "a": ("rows", None),
        "b": ("rows", "columns"),
        "w": ("rows", "columns", None),
    }
    dims = layout_of(zoo.eight_schools, zoo.ERRORS, y=zoo.EFFECTS).dims
    assert dims == {"mu": (), "tau": (), "theta": ("school",), "y": ("school",)}


def test_plates_of_deterministic_and_broadcast_sites():
    def model():
        x = numpyro.sample("x", dist.Normal(jnp.zeros(2), 1).to_event(1))
        with numpyro.plate("n", 4, dim=-1):
            numpyro.deterministic("shifted", x[0] + jnp.arange(4.0))
            numpyro.deterministic("scalar", x[0])
            numpyro.deterministic("many", {"a": jnp.arange(4.0) * x[0], "b": x})

    assert layout_of(model).dims == {
        "x": (None,),
        "shifted": ("n",),
        "scalar": (),
        "many.a": ("n",),
        "many.b": (None,),
    }


def test_names_of_what_went_wrong():
    layout = layout_of(zoo.simple, zoo.Y)
    assert layout.site_of("_sd_log_det") == "sd"
    assert layout.site_of("y") == "y"
    assert layout.sites_at(np.array([False, True])) == ("sd",)
    assert layout.sites_at(np.zeros(2, bool)) == ()


def test_factors_in_plates_and_under_masks_are_not_observed():
    def model():
        x = numpyro.sample("x", dist.Normal(0, 1))
        with numpyro.plate("row", 3), numpyro.handlers.mask(mask=jnp.array([True, False, True])):
            numpyro.factor("penalty", -x * jnp.ones(3))
        numpyro.sample("y", dist.Normal(x, 1), obs=1.0)

    assert layout_of(model).observed == ("y",)
