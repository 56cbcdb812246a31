"""What a run leaves behind: metrics.json, signs.json, report.html and the fitted detector of the first draw."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import cast

import jinja2
import numpy as np
from pydantic_core import to_jsonable_python

from ..data import read_image
from ..errors import BackboneError
from ..evaluation.experiment import BOTH_STAGES, Experiment
from ..evaluation.intervals import bootstrap, figure_text, over_draws, remarks
from ..evaluation.protocols import confusion
from ..explain import CategoryExplanation
from ..files import NOTICE, write_text
from . import plots


def write_report(folder: Path, experiment: Experiment, left_out: dict[str, str], **data) -> None:
    """Fill a folder that exists with the results of an experiment.

    Args:
        left_out: finding -> why it is not a category.
        data: `name` of the data set; numbers of images: `train` that support sets were drawn from, `unused` that show
            only findings left out, `copies` of others.
    """
    first, result = experiment.detectors[0], experiment.mean()
    scores, labels = experiment.scores[BOTH_STAGES][0], experiment.test.labels
    shown = labels.sum(1)
    data |= {
        "test": len(experiment.test),
        "patients": "patient_id" in experiment.test.meta,
        "cardinality": float(shown[shown > 0].mean()),
        "shots": experiment.shots,
        "draws": len(experiment.seeds),
        "seeds": experiment.seeds,
        "backbone": " ".join(filter(None, (first.backbone.name, first.backbone.pretrained))),
        "bank": experiment.bank.name,
        "categories": list(experiment.bank.categories),
    }
    methods: dict[str, dict] = {
        method: {
            "what": what,
            "macro": dict(zip(("mean", "low", "high"), experiment.mean(method).macro(), strict=True)),
            "paired": None if method == BOTH_STAGES else experiment.compare(BOTH_STAGES, method),
        }
        for method, what in experiment.methods.items()
    }
    subgroups = {group: over_draws(results) for group, results in experiment.subgroups.items()}
    known = {"subgroups": subgroups, "methods": methods, "left_out": left_out, "data": data, "notice": NOTICE}
    known["remarks"] = remarks(result, len(experiment.seeds))
    patients = experiment.test.patients()
    over = bootstrap(scores, labels, experiment.test.categories, None, patients, random_state=experiment.seeds[0])
    known["over_patients"] = dict(zip(("mean", "low", "high"), over.macro(), strict=True))
    known["confusion"] = confusion(scores >= first.thresholds_, labels).tolist()
    signs = sign_table(experiment)
    write_json(folder / "metrics.json", vars(result) | known)
    write_json(folder / "signs.json", signs)
    first.save(folder / "detector")
    environment = jinja2.Environment(loader=jinja2.PackageLoader("sdmad_lite.show"), autoescape=True, trim_blocks=True)
    environment.filters["in_words"] = plots.in_words
    environment.filters["png"] = lambda figure: base64.b64encode(plots.to_png(figure)).decode()
    page = environment.get_template("report.html").render(
        **known,
        result=result,
        signs=signs,
        bars={method: [macro.ap for macro in row["macro"].values()] for method, row in methods.items()},
        scores=scores,
        labels=labels,
        example=_example(experiment),
        looks=first.alignment.local > 0,
        plots=plots,
        figure_text=figure_text,
    )
    write_text(folder / "report.html", page)


def write_json(path: Path, data: dict) -> None:
    """Plain JSON, of dataclasses too; a number that is not finite becomes null."""
    write_text(path, json.dumps(to_jsonable_python(data, inf_nan_mode="null"), indent=1) + "\n")


def sign_table(experiment: Experiment) -> dict[str, list[dict]]:
    """For each category the first draw's signs, with the number of draws that kept each."""
    tables = [detector.selected_signs() for detector in experiment.detectors]
    kept = Counter((c, sign.text) for table in tables for c, signs in table.items() for sign in signs if sign.kept)
    return {c: [asdict(s) | {"kept_in_draws": kept[c, s.text]} for s in signs] for c, signs in tables[0].items()}


def _example(experiment: Experiment) -> dict:
    """The first test image with the most categories that the first draw gets exactly right, else the first with most.

    Chosen to show a success; the tables show the failures.
    """
    labels, detector = experiment.test.labels, experiment.detectors[0]
    right = (experiment.scores[BOTH_STAGES][0] >= detector.thresholds_) == labels
    row = int(np.argmax(labels.sum(1) + 10.0 * (right.all(1) & (labels.sum(1) > 1))))
    image = experiment.test.images[row]
    # a tinted picture of a grey set was scored as grey; alone it would be refused as coloured
    picture = read_image(image, experiment.bank.color, strict=False)
    truth = [c for c, y in zip(experiment.bank.categories, labels[row], strict=True) if y]
    explanations = cast(list[CategoryExplanation], detector.explain(picture))
    top = sorted(explanations, key=lambda e: -e.probability)[: max(2, len(truth))]
    strongest = [max((s for s in e.signs if s.weight > 0), key=lambda s: s.contribution).text for e in top]
    try:
        maps = dict(zip(experiment.bank.texts, detector.sign_maps(picture), strict=True))
    except BackboneError:  # a tower without patch embeddings
        maps = {}
    return {
        "picture": np.asarray(picture),
        "name": Path(image).name if isinstance(image, (str, Path)) else f"number {row}",
        "truth": truth,
        "found": [e.category for e in explanations if e.detected],
        "explanations": explanations,
        "top": top,
        "maps": maps and {text: maps[text] for text in strongest},
    }
