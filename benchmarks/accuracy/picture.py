"""The picture of the worst errors, drawn from the two tables of docs/benchmarks.md."""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).parent.parent))
from _measure import PAGE, markers  # from the folder above

PICTURE = PAGE.parent / "images" / "accuracy.png"
PANELS = {  # method -> name, marker and colour
    "mean-field": {
        "advi": ("vi", "o", "C0"),
        "svi_1e-2": ("NumPyro SVI, Adam 0.01", "^", "C1"),
        "svi_1e-3": ("NumPyro SVI, Adam 0.001", "v", "C1"),
        "pymc_advi": ("PyMC", "s", "C2"),
        "extras_advi": ("pymc-extras", "D", "C3"),
    },
    "full rank": {
        "fullrank_advi": ("vi", "o", "C0"),
        "svi_mvn_1e-2": ("NumPyro SVI, Adam 0.01", "^", "C1"),
        "svi_mvn_1e-3": ("NumPyro SVI, Adam 0.001", "v", "C1"),
        "pymc_fullrank_advi": ("PyMC", "s", "C2"),
    },
}


def worst_errors(page: str, section: str) -> dict[tuple[str, str], float]:
    """By case and method, from the columns "case", "method" and "worst"."""
    begin, end = markers(section)
    lines = page.partition(begin)[2].partition(end)[0].splitlines()
    cells = [[cell.strip() for cell in x.strip("|").split("|")] for x in lines if x[:1] == "|"]
    header, _, *rows = cells
    case, method, worst = (header.index(name) for name in ("case", "method", "worst"))
    return {(r[case].rstrip("*"), r[method]): float(r[worst]) for r in rows if r[worst] != "-"}


def panel(ax: Any, cases: list[str], errors: Any, kinds: dict[str, tuple[str, str, str]]) -> None:
    """One family: a row for each case, a mark for each method."""
    for method, (name, marker, colour) in kinds.items():
        points = [
            (errors[case, method], y) for y, case in enumerate(cases) if (case, method) in errors
        ]
        face = colour if colour == "C0" else "none"
        x, y = zip(*points, strict=True) if points else ((), ())
        ax.scatter(x, y, 28, marker=marker, edgecolors=colour, facecolors=face, label=name)
    ax.axvline(0.1, color="k", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", xlabel="worst error of a mean, posterior sds")
    ax.grid(axis="y", linewidth=0.3)


def main() -> None:
    page = PAGE.read_text()
    errors = worst_errors(page, "accuracy") | worst_errors(page, "accuracy_peers")
    cases = list(dict.fromkeys(case for case, _ in errors))[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 5.6), sharey=True, layout="constrained")
    for ax, (family, kinds) in zip(axes, PANELS.items(), strict=True):
        panel(ax, cases, errors, kinds)
        ax.set_title(family)
    axes[0].set_yticks(range(len(cases)), cases, fontsize=8)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, fontsize=8, loc="outside lower center", ncols=len(names))
    figure.savefig(PICTURE, dpi=72, pil_kwargs={"optimize": True})
    plt.close(figure)


if __name__ == "__main__":
    main()
