"""Settings of every kind: what is out of range or of another type is refused by its name."""

import math

import numpy as np
import pytest

from sdmad_lite import AdapterConfig, AlignmentConfig, RunConfig, SDMADError, SelectionConfig
from sdmad_lite.selection import EvidenceConfig

WRONG = [
    *((AdapterConfig, {name: value}) for name in ("lam", "vision_share", "text_share") for value in (1.5, -0.1, "1")),
    *((AdapterConfig, {"reduction": value}) for value in (0, 2.0, True, None)),
    *((AlignmentConfig, {"steps": value}) for value in (-1, 1.5, True, "3", math.nan, None, [1])),
    *((AlignmentConfig, {name: 0}) for name in ("lr", "batch_size", "augmentations")),
    *(
        (AlignmentConfig, {name: value})
        for name in ("lr", "mixup", "intra")
        for value in (math.nan, math.inf, -1, True)
    ),
    *((SelectionConfig, change) for change in ({"rule": "best"}, {"keep": 0}, {"shrink": 2}, {"least_positives": 0.5})),
    *((EvidenceConfig, change) for change in ({"share": 2}, {"strength": 0}, {"strength": "big"})),
    *((RunConfig, change) for change in ({"precision": "fp8"}, {"at_once": 0}, {"checkpoint_steps": 0})),
    *((RunConfig, change) for change in ({"checkpoint_seconds": -1}, {"compile": 1}, {"checkpoint": 3})),
    (RunConfig, {"after_step": "print"}),
]


@pytest.mark.parametrize(("kind", "change"), WRONG, ids=str)
def test_a_setting_that_does_not_fit_is_named(kind, change):
    ((name, value),) = change.items()
    with pytest.raises(SDMADError) as told:
        kind(**change)
    assert str(told.value).startswith(f"{name} is {value!r}: it must ")


def test_numbers_of_numpy_are_numbers():
    config = AlignmentConfig(steps=np.int64(3), lr=np.float32(0.5), mixup=1)
    assert config == AlignmentConfig(steps=3, lr=0.5, mixup=1.0) and type(config.steps) is int
