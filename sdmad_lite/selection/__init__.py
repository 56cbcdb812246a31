"""Stage 2: which signs to trust, judged on the support set alone.

`SignSelector` weighs the signs of each category and drops those that few shots could not align, `ImageEvidence` learns
what the image says beside them, `Calibration` and `best_f1_thresholds` lead from margins to decisions.
"""

from .calibration import Calibration, best_f1_thresholds, normal_f1_thresholds
from .image_evidence import EvidenceConfig, ImageEvidence, logistic, logistic_sums
from .moments import Moments
from .sign_selector import (
    TRAINING_FREE,
    SelectionConfig,
    SignSelector,
    discriminant_weights,
    equal_weights,
    margins,
    support_auroc,
    weights_of_spread,
)

__all__ = ["TRAINING_FREE", "Calibration", "EvidenceConfig", "ImageEvidence", "Moments", "SelectionConfig"]
__all__ += ["SignSelector", "best_f1_thresholds", "discriminant_weights", "equal_weights", "logistic", "logistic_sums"]
__all__ += ["margins", "normal_f1_thresholds", "support_auroc", "weights_of_spread"]
