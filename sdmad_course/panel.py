"""What all panels share. A panel is a case, a function and a line:

    case = BoardCase(scores, labels, categories, thresholds)            # computed beforehand
    figure, text = protocol_board(case, "Effusion", "detection", 0.4)   # anywhere
    board_panel(case)                                                   # in a notebook, with a kernel

The function is pure and works on cosines computed once, so that a move costs milliseconds; `Panel` only passes values
on. Pictures and texts are `HTML`: `Output` and `interact` can stall a notebook that runs without a browser, and
`Image` has no words for those who do not see it.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np
import traitlets
from matplotlib.figure import Figure

from sdmad_lite.errors import DataError
from sdmad_lite.files import NOTICE
from sdmad_lite.show.plots import LARGE, SMALL, new_figure, to_png

__all__ = ["LARGE", "SMALL", "Checks", "Panel", "Picture"]
Drawn = tuple[Figure, str]  # a figure, and the same state in words (HTML)
Controls = Mapping[str, ipywidgets.Widget]

# The handle of a slider of ipywidgets has no name for a screen reader, and of a slider over options it says the number
# of the option. This gives it the words beside it. Scripts do not run in a widget's HTML, what an image does once
# loaded does: in JupyterLab as in Voilà.
NAMES = """
const image = this;
const name = (panel) => panel.querySelectorAll('.noUi-handle').forEach((handle) => {
  const row = handle.closest('.widget-inline-hbox'), shown = row.querySelector('.widget-readout');
  handle.ariaLabel = row.querySelector('label').textContent;
  handle.ariaValueText = shown.textContent;
  if (shown.isContentEditable) Object.assign(shown, {role: 'textbox', ariaLabel: handle.ariaLabel});
});
const begin = (tries) => {
  const panel = image.closest('.panel');
  if (!panel) return tries && setTimeout(begin, 100, tries - 1);
  const watched = {subtree: true, childList: true, characterData: true, attributeFilter: ['aria-valuenow']};
  new MutationObserver(() => name(panel)).observe(panel, watched);
  name(panel);
};
begin(600);
"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


class Picture(ipywidgets.HTML):
    """A picture with its state in words: `png` bytes."""

    def show(self, png: bytes, words: str) -> None:
        """Another picture; of `words` the tags are left out."""
        self.png, plain = png, html.escape(" ".join(re.sub("<[^>]*>", " ", words).split()))
        self.value = f'<img class="panel-picture" alt="{plain}" src="data:image/png;base64,{_text(png)}">'


def _text(png: bytes) -> str:
    return base64.b64encode(png).decode()


class Panel(ipywidgets.VBox):
    """Controls, the picture they make and a line of text.

    Attributes:
        controls: name -> widget. picture: the Picture. state: the HTML text. reset: a Button, to how it began.
    """

    def __init__(
        self,
        draw: Callable[..., Drawn],
        controls: Controls,
        follow: Mapping[str, Callable[[Controls], None]] | None = None,
    ):
        """`draw` takes the values of the controls; `follow[name]` brings the others in step when that one moves."""
        self.draw, self.controls, self._follow, self._quiet = draw, dict(controls), dict(follow or {}), False
        self.picture, self.state = Picture(), ipywidgets.HTML()
        self.reset = ipywidgets.Button(description="reset", tooltip="back to how it began", layout={"width": "80px"})
        self.reset.on_click(lambda _: self._restore())
        for name, control in self.controls.items():
            control.description = getattr(control, "description", "") or name
            control.observe(partial(self._moved, name), "value")
        self._first = {name: control.value for name, control in self.controls.items()}
        self._redraw()
        layout = ipywidgets.Layout(flex_flow="row wrap")
        short = [control for control in self.controls.values() if not isinstance(control, Checks)]
        long = [control for control in self.controls.values() if isinstance(control, Checks)]
        names = ipywidgets.HTML(f'<img alt="" src="{PIXEL}" onload="{html.escape(NAMES)}">', layout={"width": "1px"})
        rows = ipywidgets.HBox([*short, self.reset, *long, names], layout=layout)
        super().__init__([rows, self.picture, self.state])
        self.add_class("panel")
        self.picture.add_class("panel-image")

    def _repr_mimebundle_(self, **kwargs):
        """The panel, and for pages without a kernel how it begins."""
        controls = ", ".join(control.description for control in self.controls.values())
        how = f"<p><i>In a notebook this picture moves: {html.escape(controls)}.</i></p>"
        return super()._repr_mimebundle_(**kwargs) | {"text/html": self.picture.value + self.state.value + how}

    def _restore(self) -> None:
        for name, value in self._first.items():  # in their order: what follows another comes after it
            self.controls[name].value = value

    def _moved(self, name: str, change) -> None:
        if self._quiet:  # it was not the user who moved this control
            return
        self._quiet = True
        try:
            self._follow.get(name, lambda controls: None)(self.controls)
        finally:
            self._quiet = False
        self._redraw()

    def _redraw(self) -> None:
        figure, text = self.draw(**{name: control.value for name, control in self.controls.items()})
        self.picture.show(to_png(figure, quick=True), text)
        self.state.value = f"{text}<br><small>{NOTICE}</small>"


class Checks(ipywidgets.Box):
    """A checkbox for each option, all on at first; the last one that is on stays on, and a remark says so.

    Attributes:
        options: the option of each box. boxes: the Checkboxes. remark: the HTML text. value: options that are on.
    """

    value = traitlets.Tuple()

    def __init__(self, labels: Mapping):
        super().__init__(layout={"width": "100%", "flex_flow": "row wrap"})
        self.remark, self._quiet = ipywidgets.HTML(), False
        self.offer(labels)
        self.observe(self._show, "value")

    def offer(self, labels: Mapping) -> None:
        """Other options, all on: option -> text beside its box."""
        look = {"indent": False, "layout": {"width": "auto", "margin": "2px 24px 2px 2px"}}
        self.options = tuple(labels)
        self.boxes = [ipywidgets.Checkbox(True, description=text, **look) for text in labels.values()]
        for box in self.boxes:
            box.observe(self._read, "value")
        self.children, self.value = [*self.boxes, self.remark], self.options

    @traitlets.validate("value")
    def _never_none(self, proposal) -> tuple:
        value = proposal["value"] or self.value
        self.remark.value = "" if proposal["value"] else "<i>At least one must stay on: this one is on again.</i>"
        return value

    def _read(self, change) -> None:
        if not self._quiet:
            self.value = tuple(o for o, box in zip(self.options, self.boxes, strict=True) if box.value)
            self._show()

    def _show(self, change=None) -> None:
        self._quiet = True
        for option, box in zip(self.options, self.boxes, strict=True):
            box.value = option in self.value
        self._quiet = False


LOOK = {"style": {"description_width": "initial"}}  # no label is shortened


def choice(options: Sequence, first=None, name: str = "", width: str = "340px", kind=ipywidgets.Dropdown, **look):
    """A list to choose from, at `first` where it has that; the Panel names it after its key where no name is given."""
    value, look = first if first in options else options[0], LOOK | {"layout": {"width": width}} | look
    return kind(options=list(options), value=value, description=name, **look)


def marks(options: Sequence, first=None, name: str = "") -> ipywidgets.SelectionSlider:
    """A slider over values that do not lie evenly."""
    return choice(options, first, name, kind=ipywidgets.SelectionSlider, layout={}, continuous_update=False)


def slider(low: float, high: float, value: float, name: str = "", width: str = "300px") -> ipywidgets.Widget:
    """A slider over whole numbers, or in twenty steps where the value is a float; name and value share its width."""
    how = {"min": low, "max": high, "description": name, "continuous_update": False, "layout": {"width": width}, **LOOK}
    if isinstance(value, int):
        return ipywidgets.IntSlider(value, **how)
    return ipywidgets.FloatSlider(value, step=(high - low) / 20, readout_format=".2f", **how)


def switch(text: str) -> ipywidgets.Checkbox:
    """A checkbox, off at first."""
    return ipywidgets.Checkbox(False, description=text, indent=False, layout={"width": "auto"})


def panel_axes(width: float, height: float, ratios: Sequence[float], left: float, wspace: float) -> tuple[Figure, list]:
    """Fixed margins: twice as fast as a layout engine, and nothing jumps from move to move."""
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    margins = {"left": left, "right": 0.98, "bottom": 0.16, "top": 0.88, "wspace": wspace}
    axes = list(figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios, gridspec_kw=margins).flat)
    for axis in axes:
        axis.tick_params(labelsize=SMALL)
        axis.xaxis.label.set_size(LARGE)
        axis.yaxis.label.set_size(LARGE)
    return figure, axes


def number_of(value, options: Sequence, name: str) -> int:
    """Where a value stands among the options; a DataError names one that is none of them."""
    if value not in options:
        raise DataError(f"{name}: {value!r} is none of {', '.join(map(str, options))}")
    return list(options).index(value)


def check_shapes(case, **shapes: tuple[int, ...]) -> None:
    """A DataError names the first array of a case, or of a dict in it, that has another shape than expected."""
    for name, shape in shapes.items():
        value = getattr(case, name)
        several = isinstance(value, Mapping)
        for what, array in value.items() if several else [("", value)]:
            try:
                found = np.shape(array)
            except ValueError:  # numpy finds none for rows of different lengths
                found = "uneven"
            if found != shape:
                raise DataError(f"{name}{', ' * several}{what}: shape {found}, expected {shape}")
