"""The two plots: time by stage for each contender, and growth with the rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.contestants import FLOOR_NAME, PROJECT_NAME, STAGES
from benchmarks.summary import peak_of, seconds_of, stages_of

# Told apart without colour vision too, and in grey.
_STAGE_COLOURS = ("#bbbbbb", "#56b4e9", "#e69f00", "#0072b2")
_COLOURS = {PROJECT_NAME: "#d55e00", FLOOR_NAME: "#444444"}
_SIZE = (8.0, 3.4)
_DOTS_PER_INCH = 110


def draw_plots(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw both; returns their files. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "benchmark_steps.png", folder / "benchmark_growth.png"]
    _draw_stages(results, paths[0])
    _draw_growth(results, paths[1])
    return paths


def _draw_stages(results: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    names = sorted(results["refresh"], key=lambda name: -seconds_of(results["refresh"][name]))
    left = dict.fromkeys(names, 0.0)
    stages = {name: stages_of(name, results["refresh"][name]) for name in names}
    for stage, colour in zip(STAGES, _STAGE_COLOURS):
        widths = [stages[name][stage] for name in names]
        axes.barh(names, widths, left=list(left.values()), label=stage, color=colour)
        left = {name: left[name] + width for name, width in zip(names, widths)}
    for name in names:
        axes.text(left[name], name, f" {left[name]:.2f} s", va="center")
    axes.set_xlim(0, 1.1 * max(left.values()))
    axes.set_xlabel("seconds, whole process")
    axes.set_title(f"Daily refresh of {results['rows']['today']:,} rows", loc="left")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(figure)


def _draw_growth(results: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot

    figure, sides = pyplot.subplots(1, 2, figsize=_SIZE, layout="constrained")
    rows = [point["rows"] / 1000 for point in results["growth"]]
    figures = (("seconds, whole process", seconds_of), ("peak memory, MB", peak_of))
    for axes, (label, figure_of) in zip(sides, figures):
        for name, colour in _COLOURS.items():
            values = [figure_of(point["contenders"][name]) for point in results["growth"]]
            axes.plot(rows, values, marker="o", label=name, color=colour)
        axes.set_xlabel("thousand rows")
        axes.set_title(label, loc="left")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    sides[0].legend(frameon=False)
    figure.savefig(path, dpi=_DOTS_PER_INCH, metadata={"Software": None})
    pyplot.close(figure)
