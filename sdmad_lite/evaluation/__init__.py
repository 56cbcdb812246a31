"""Protocols, baselines and experiments: how good is it, and compared with what.

`protocols.py` scores predictions; `sealed.py` holds the test set back until every method is fitted; `baselines.py` has
what to compare with; `experiment.py` is the whole path; `episodes.py` and `seen_images.py` keep what was drawn.
"""

from .baselines import ON_FEATURES, Method, Predictor, Query, Support
from .episodes import Episodes, draw_episodes, load_episodes
from .experiment import Experiment, Settings, eligible, eligible_split, run_experiment
from .protocols import Evaluation, Interval, Paired, bootstrap, evaluate, mean_interval, over_draws, paired, remarks
from .sealed import SealedTest

__all__ = ["ON_FEATURES", "Episodes", "Evaluation", "Experiment", "Interval", "Method", "Paired", "Predictor", "Query"]
__all__ += ["SealedTest", "Settings", "Support", "bootstrap", "draw_episodes", "eligible", "evaluate"]
__all__ += ["eligible_split", "load_episodes", "mean_interval", "over_draws", "paired", "remarks", "run_experiment"]
