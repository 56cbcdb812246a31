"""Protocols, baselines and experiments: how good is it, and compared with what.

`protocols.py` scores predictions, `intervals.py` says what a mean is worth; `sealed.py` holds the test set back until
every method is fitted; `baselines.py` has what to compare with; `experiment.py` is the whole path; `seen_images.py`
keeps what a detector was fitted on.
"""

from .baselines import ON_FEATURES, Method, Predictor, Query, Support
from .experiment import Experiment, Settings, eligible, eligible_split, run_experiment
from .intervals import Interval, Paired, bootstrap, mean_interval, over_draws, paired, remarks
from .protocols import Evaluation, evaluate
from .sealed import SealedTest

__all__ = ["ON_FEATURES", "Evaluation", "Experiment", "Interval", "Method", "Paired", "Predictor", "Query"]
__all__ += ["SealedTest", "Settings", "Support", "bootstrap", "eligible", "eligible_split", "evaluate"]
__all__ += ["mean_interval", "over_draws", "paired", "remarks", "run_experiment"]
