"""The picture of the ratios to hand-written loops."""

from pathlib import Path

import matplotlib.pyplot as plt


def draw(
    path: Path, found: dict[str, dict[str, float | str]], columns: list[str], reference: str
) -> None:
    """A panel for each workload, a bar for each package; words where there is no number."""
    figure, axes = plt.subplots(
        1, len(found), figsize=(11, 2.6), sharey=True, layout="constrained", squeeze=False
    )
    places = range(len(columns))[::-1]
    for ax, (workload, rates) in zip(axes[0], found.items(), strict=True):
        ratios = {name: r / rates[reference] for name, r in rates.items() if not isinstance(r, str)}
        low, high = min(ratios.values()) / 3, max(ratios.values()) * 12
        for y, name in zip(places, columns, strict=True):
            colour = "C0" if y == len(columns) - 1 else "0.6"
            if name in ratios:
                ax.barh(y, ratios[name] - low, left=low, color=colour)
                label, x = f" {ratios[name]:.2g}", ratios[name]
            else:
                label, x = f" {rates.get(name, '-').split(':')[0]}", low
            ax.text(x, y, label, va="center", fontsize=8)
        ax.axvline(1, color="k", linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlim=(low, high))
        ax.set_title(workload.replace(", ", ",\n", 1), fontsize=9)
        ax.tick_params(labelsize=8)
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(list(places), columns)
    figure.supxlabel(f"steps per second, divided by those of {reference} (dotted)", fontsize=9)
    figure.savefig(path, dpi=90)
    plt.close(figure)
