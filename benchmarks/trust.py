"""What trust costs: averaging, watching, guards, restarts and the warm-up, in one run each."""

from collections.abc import Callable
from typing import Any

from _measure import fresh, interleaved, publish, table
from _models import mixture, wide_normal, wide_normal_data

import numpyro_vi_ext as vi
from numpyro_vi_ext.defaults import gaussian_default

ALONE = """
import time, jax.numpy as jnp
import numpyro_vi_ext as vi
from _models import mixture
began = time.perf_counter()
vi.fit(mixture, 10_000, random_seed=0, progressbar=False, warmup={warmup!r})
print(time.perf_counter() - began)
"""


def costs(name: str, steps: int, model: Any, options: Callable[[], dict[str, Any]]) -> list[str]:
    """Share of the step rate that goes into averages and into skipping bad steps."""
    plain = {"warmup": False, "progressbar": False, "random_seed": 0}
    bare = gaussian_default()  # the same steps, as an optimizer given by the user: no averages

    def fit(**more: Any) -> Callable[[], object]:
        return lambda: vi.fit(model, steps, **options(), **plain, **more)

    seconds = interleaved(
        7,
        {
            "bare": fit(obj_optimizer=bare),
            "averaged, watched": fit(),
            "and skipping": fit(on_nonfinite="skip"),
        },
    )
    reference = seconds["bare"]
    return [name, f"{steps / reference:,.0f}"] + [
        f"{100 * (seconds[c] / reference - 1):.0f} %" for c in ("averaged, watched", "and skipping")
    ]


def more_starts(steps: int = 100_000) -> str:
    """Restarts on the mixture, in single fits."""
    fit = lambda **o: vi.fit(mixture, steps, random_seed=0, progressbar=False, **o)  # noqa: E731
    seconds = interleaved(5, {"one": fit, "eight": lambda: fit(restarts=8)})
    short = lambda **o: vi.fit(mixture, 10_000, random_seed=0, progressbar=False, **o)  # noqa: E731
    few = interleaved(5, {"one": short, "eight": lambda: short(restarts=8)})
    return (
        f"`restarts=8` on the mixture costs {few['eight'] / few['one']:.1f} single fits of 10,000 "
        f"steps ({1e3 * few['one']:.0f} ms each), {seconds['eight'] / seconds['one']:.1f} of "
        f"{steps:,}."
    )


def first_fits(rounds: int = 3) -> str:
    """Seconds of the first fit of a fresh process, compile included."""

    def alone(warmup: bool | str) -> float:
        return float(fresh(ALONE.format(warmup=warmup)))

    found = [(alone(False), alone("auto")) for _ in range(rounds)]
    without, with_it = (sorted(column)[rounds // 2] for column in zip(*found, strict=True))
    return (
        f"The first fit of a process takes {with_it:.1f} s with the warm-up, and {without:.1f} s "
        "without."
    )


def main() -> None:
    data = wide_normal_data()
    rows = [
        costs("mixture, d = 1", 300_000, mixture, dict),
        costs(
            "minibatch of 500 of 40,000 x 100",
            20_000,
            wide_normal,
            lambda: {"model_args": (vi.Minibatch(data, batch_size=500),)},
        ),
    ]
    header = ["fit", "bare steps/s", "averages and watching cost", "and skipping"]
    publish("trust", "\n\n".join([table(header, rows), more_starts(), first_fits()]))


if __name__ == "__main__":
    main()
