"""What a run leaves behind: metrics.json, signs.json, report.html and the fitted detector of the first draw."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

from ..data import read_image
from ..errors import BackboneError
from ..evaluation.experiment import BOTH_STAGES, Experiment
from ..evaluation.protocols import Interval, figure_text, mean_interval, over_draws
from ..files import NOTICE
from . import plots


def write_report(
    folder: Path, experiment: Experiment, name: str, train_size: int, left_out: dict[str, str], unused: int
) -> None:
    """Fill a folder with the results of an experiment.

    Args:
        folder: exists.
        name: of the data set.
        train_size: images that support sets were drawn from.
        left_out: finding -> why it is not a category.
        unused: images dropped because they show only such findings.
    """
    first, means, signs = experiment.detectors[0], experiment.mean(), sign_table(experiment)
    subgroups = {group: over_draws(results) for group, results in experiment.subgroups.items()}
    data = {
        "name": name,
        "train": train_size,
        "test": len(experiment.test),
        "patients": "patient_id" in experiment.test.meta,
        "shots": experiment.shots,
        "draws": len(experiment.seeds),
        "seeds": experiment.seeds,
        "backbone": " ".join(filter(None, (first.backbone.name, first.backbone.pretrained))),
        "bank": experiment.bank.name,
        "categories": list(experiment.bank.categories),
        "unused": unused,
    }
    methods = [
        {"name": method, "what": what, "macro": experiment.mean(method).macro()}
        | {"paired": None if method == BOTH_STAGES else experiment.compare(BOTH_STAGES, method)}
        for method, what in experiment.methods.items()
    ]
    metrics = {
        **asdict(means),
        "subgroups": {group: asdict(interval) for group, interval in subgroups.items()},
        "methods": {
            row["name"]: {
                "what": row["what"],
                "macro": dict(zip(("mean", "low", "high"), map(asdict, row["macro"]), strict=True)),
                "paired": row["paired"] and asdict(row["paired"]),
            }
            for row in methods
        },
        "left_out": left_out,
        "data": data,
        "notice": NOTICE,
    }
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "signs.json", signs)
    first.save(folder / "detector")
    example = pick_example(experiment)
    explanations = first.explain(example["image"])
    pictures = _pictures(experiment, example, explanations, methods, means)
    environment = jinja2.Environment(loader=jinja2.PackageLoader("sdmad_lite.show"), autoescape=True, trim_blocks=True)
    environment.filters["figure"] = _figure_cell
    html = environment.get_template("report.html").render(
        data=data,
        notice=NOTICE,
        left_out=left_out,
        means=means,
        methods=methods,
        subgroups=subgroups,
        signs=signs,
        example=example | {"found": [e.category for e in explanations if e.probability >= e.threshold]},
        figures=pictures,
    )
    (folder / "report.html").write_text(html, encoding="utf-8")


def write_json(path: Path, data: dict) -> None:
    """Plain JSON; a number that is not finite becomes null."""

    def finite(value):
        if isinstance(value, dict):
            return {str(k): finite(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [finite(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    path.write_text(json.dumps(finite(data), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def sign_table(experiment: Experiment) -> dict[str, list[dict]]:
    """For each category the first draw's signs, with the number of draws that kept each."""
    tables = [
        {category: [asdict(sign) for sign in signs] for category, signs in detector.selected_signs().items()}
        for detector in experiment.detectors
    ]
    for category, rows in tables[0].items():
        for row in rows:
            kept = [r["kept"] for table in tables for r in table[category] if r["text"] == row["text"]]
            row["kept_in_draws"] = sum(kept)
    return tables[0]


def pick_example(experiment: Experiment) -> dict:
    """The first test image with the most categories that the first draw gets exactly right, else the first with most.

    Chosen to show a success; the tables show the failures.
    """
    labels = experiment.test.labels
    right = (experiment.scores[BOTH_STAGES][0] >= experiment.detectors[0].thresholds_) == labels
    rank = labels.sum(1) + 10.0 * (right.all(1) & (labels.sum(1) > 1))
    row = int(np.argmax(rank))
    image = experiment.test.images[row]
    truth = [c for c, y in zip(experiment.bank.categories, labels[row], strict=True) if y]
    return {
        "image": image,
        "name": Path(image).name if isinstance(image, (str, Path)) else f"number {row}",
        "truth": truth,
    }


def _pictures(experiment: Experiment, example: dict, explanations: list, methods: list[dict], means: Interval) -> dict:
    detector = experiment.detectors[0]
    picture = np.asarray(read_image(example["image"], experiment.bank.color))
    top = sorted(explanations, key=lambda e: -e.probability)[: max(2, len(example["truth"]))]
    found = [e.category for e in explanations if e.probability >= e.threshold]
    caption = f"true: {', '.join(example['truth']) or 'normal'}\ndetected: {', '.join(found) or 'nothing'}"
    image = plots.show_images([picture], [caption], columns=1, size=3.2)
    rows = {row["name"]: mean_interval(experiment.series(row["name"])) for row in methods}
    macro = "macro mAP, multi-label"
    return {
        "example": _inline(image, 'style="width:34%"')
        + _inline(plots.plot_probabilities(explanations, example["truth"]), 'style="width:60%"'),
        "explanations": [_inline(plots.plot_explanation(e)) for e in top],
        "maps": _maps(detector, example["image"], picture, top),
        "protocols": _inline(plots.plot_protocols(means)),
        "methods": _inline(plots.plot_methods(rows, macro, f"{experiment.shots} shots, {len(experiment.seeds)} draws")),
        "curves": _inline(
            plots.plot_curves(experiment.scores[BOTH_STAGES][0], experiment.test.labels, experiment.bank.categories)
        ),
    }


def _maps(detector, image, picture: np.ndarray, explanations: list) -> str:
    """Heat maps of each category's strongest sign; empty for a tower without patch embeddings."""
    try:
        maps = detector.sign_maps(image)
    except BackboneError:
        return ""
    kept = [[sign for sign in e.signs if sign.weight > 0] for e in explanations]
    texts = [max(signs, key=lambda sign: sign.contribution).text for signs in kept]
    chosen = {text: maps[detector.bank.texts.index(text)] for text in dict.fromkeys(texts)}
    return _inline(plots.plot_sign_maps(picture, chosen))


def _inline(figure: Figure, attributes: str = "") -> str:
    return f'<img {attributes} alt="" src="data:image/png;base64,{base64.b64encode(plots.to_png(figure)).decode()}">'


def _figure_cell(rows: tuple, name: str) -> str:
    """A figure with its interval, of rows (mean, low, high), as HTML; n/a where there is none."""
    figure, _, interval = figure_text(*(getattr(row, name) for row in rows)).partition(" ")
    return figure + (f' <span class="interval">{interval}</span>' if interval else "")
