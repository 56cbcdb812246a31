"""Stage 2: which signs to trust, judged on the support set alone.

`SignSelector` weighs the signs of each category and drops those that few shots could not align, `ImageEvidence` learns
what the image says beside them, `Calibration` and `best_f1_thresholds` lead from margins to decisions.
"""

from .calibration import Calibration, best_f1_thresholds, typical
from .image_evidence import EvidenceConfig, ImageEvidence, logistic
from .sign_selector import (
    TRAINING_FREE,
    SelectionConfig,
    SignSelector,
    Spread,
    discriminant_weights,
    equal_weights,
    margins,
    sign_scores,
    support_auroc,
)

__all__ = ["TRAINING_FREE", "Calibration", "EvidenceConfig", "ImageEvidence", "SelectionConfig", "SignSelector"]
__all__ += ["Spread", "best_f1_thresholds", "discriminant_weights", "equal_weights", "logistic", "margins"]
__all__ += ["sign_scores", "support_auroc", "typical"]
