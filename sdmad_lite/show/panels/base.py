"""What all panels share: controls, the picture they make, a line of text; and letters for the back of a room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO

import ipywidgets
from matplotlib.figure import Figure

from ...errors import DataError
from ...files import NOTICE
from ..plots import _figure

SMALL, LARGE = 10, 12
"""Letters in points, in pictures 12 inches wide."""

Drawn = tuple[Figure, str]
"""A figure, and the same state in words (HTML)."""


class Panel(ipywidgets.VBox):
    """Controls, the picture they make and a line of text.

    Attributes:
        controls: name -> widget. picture: the Image. state: the HTML text.
    """

    def __init__(
        self,
        draw: Callable[..., Drawn],
        controls: Mapping[str, ipywidgets.Widget],
        follow: Mapping[str, Callable[[Mapping[str, ipywidgets.Widget]], None]] | None = None,
    ):
        """`follow`: for the name of a control, what brings the others in step when it moves."""
        self.draw, self.controls, self._follow, self._quiet = draw, dict(controls), dict(follow or {}), False
        self.picture, self.state = ipywidgets.Image(format="png"), ipywidgets.HTML()
        for control in self.controls.values():
            control.style.description_width = "initial"  # no label is cut
            control.observe(self._moved, "value")
        self._redraw()
        layout = ipywidgets.Layout(flex_flow="row wrap")
        super().__init__([ipywidgets.HBox(list(self.controls.values()), layout=layout), self.picture, self.state])

    def _moved(self, change) -> None:
        if self._quiet:
            return
        self._quiet = True
        try:
            for name, bring in self._follow.items():
                if self.controls[name] is change["owner"]:
                    bring(self.controls)
        finally:
            self._quiet = False
        self._redraw()

    def _redraw(self) -> None:
        figure, text = self.draw(**{name: control.value for name, control in self.controls.items()})
        self.picture.value, self.state.value = panel_png(figure), f"{text}<br><small>{NOTICE}</small>"


def panel_png(figure: Figure) -> bytes:
    """The picture as PNG bytes, as large as the figure and lightly packed: half the time of `plots.to_png`."""
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=110, pil_kwargs={"compress_level": 1})
    return stream.getvalue()


def choice(name: str, options: Sequence, width: str = "300px") -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=list(options), value=options[0], description=name, layout={"width": width})


def marks(name: str, options: Sequence, first=None) -> ipywidgets.SelectionSlider:
    """A slider over values that do not lie evenly."""
    value = first if first in options else options[0]
    return ipywidgets.SelectionSlider(options=list(options), value=value, description=name, continuous_update=False)


def slider(name: str, low: float, high: float, value: float) -> ipywidgets.FloatSlider:
    step = (high - low) / 20
    return ipywidgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=name, continuous_update=False, readout_format=".2f"
    )


def axes_of(width: float, height: float, ratios: Sequence[float], left: float, wspace: float) -> tuple[Figure, list]:
    """Fixed margins: twice as fast as a layout engine, and nothing jumps from move to move."""
    figure = _figure(width, height)
    figure.set_layout_engine("none")
    margins = {"left": left, "right": 0.98, "bottom": 0.16, "top": 0.88, "wspace": wspace}
    axes = list(figure.subplots(1, len(ratios), width_ratios=ratios, gridspec_kw=margins))
    for axis in axes:
        axis.tick_params(labelsize=SMALL)
        axis.xaxis.label.set_size(LARGE)
        axis.yaxis.label.set_size(LARGE)
    return figure, axes


def one_of(value, options: Sequence, name: str) -> int:
    if value not in options:
        raise DataError(f"{name}: {value!r} is none of {', '.join(map(str, options))}")
    return list(options).index(value)
