"""Stage 1: Shift Adapters beside the layers of both towers, the losses, and their training on the support set.

`train.align` is the whole stage, `train.training_step` one step of it. How it is run stands in `running`.
"""

from ..running import RunConfig, in_batches, own_device
from .activations import pool_tokens, record_activations, split_image_tower
from .adapters import NO_ADAPTERS, AdapterConfig, ShiftAdapter, build_adapters, installed
from .augment import augment, iter_augmented, mixup
from .losses import discrepancy_loss, inter_anomaly_loss, intra_anomaly_loss
from .train import Aligned, AlignmentConfig, Encoders, Training, align, training_step

__all__ = ["NO_ADAPTERS", "AdapterConfig", "Aligned", "AlignmentConfig", "RunConfig", "ShiftAdapter", "align"]
__all__ += ["Encoders", "Training", "augment", "build_adapters", "discrepancy_loss", "in_batches"]
__all__ += ["installed", "inter_anomaly_loss", "intra_anomaly_loss", "iter_augmented", "mixup", "own_device"]
__all__ += ["pool_tokens", "record_activations", "split_image_tower", "training_step"]
