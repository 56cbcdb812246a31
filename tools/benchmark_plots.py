"""Pictures of the benchmark page, from plain results to a matplotlib Figure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from sdmad_lite.show.plots import BLUE, PALETTE, finish, new_figure


def plot_shots(rows: Mapping[str, Mapping[int, tuple[float, float, float]]], label: str, title: str = "") -> Figure:
    """Methods over K (method -> K -> mean, low, high): SD-MAD with its interval, the others as lines."""
    figure = new_figure(8.5, 4.4)
    axis = figure.subplots()
    ordered = sorted(rows, key=lambda name: -list(rows[name].values())[-1][0])
    others = iter([(style, color) for style in ("-", "--", ":", "-.") for color in PALETTE[1:] if color != "#F0E442"])
    for name in ordered:
        shots, means = list(rows[name]), [row[0] for row in rows[name].values()]
        if name.startswith("SD-MAD"):
            axis.fill_between(
                shots, *zip(*(row[1:] for row in rows[name].values()), strict=True), color=BLUE, alpha=0.2
            )
            axis.plot(shots, means, "o-", color=BLUE, linewidth=3, label=name, zorder=3)
        else:
            style, color = next(others)
            axis.plot(shots, means, style, color=color, linewidth=1.5, label=name)
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(k) for k in shots])
    axis.set(xlabel="shots per category, K", ylabel=f"{label}, mean over support draws")
    axis.set_title(title, fontsize=10)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    finish(axis)
    return figure


def plot_gains(gains: Mapping[str, Mapping[str, Mapping[int, Mapping]]], titles: Mapping[str, str]) -> Figure:
    """Paired differences with intervals (panel -> bank -> K -> difference, low, high), a panel for each of `titles`."""
    figure = new_figure(9, 3.4)
    ticks = sorted({k for rows in gains.values() for row in rows.values() for k in row})
    for axis, (name, title) in zip(figure.subplots(1, len(titles)), titles.items(), strict=True):
        for i, (bank, row) in enumerate(gains[name].items()):
            shots = np.array(list(row), dtype=float) * 2 ** (0.12 * (i - (len(gains[name]) - 1) / 2))
            middle = np.array([r["difference"] for r in row.values()])
            reach = [[r["difference"] - r["low"], r["high"] - r["difference"]] for r in row.values()]
            axis.errorbar(shots, middle, np.array(reach).T, fmt="o", color=PALETTE[i], capsize=2, label=bank)
        axis.axhline(0, color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xticks(ticks, [str(k) for k in ticks])
        axis.minorticks_off()
        axis.set(xlabel="shots per category, K", ylabel="gain in macro mAP")
        axis.set_title(title, fontsize=10)
        finish(axis)
    axis.legend(title="sign bank", fontsize=8, frameon=False)
    return figure
