"""Stage 1: Shift Adapters beside the layers of both towers, the losses, and their training on the support set."""

from .activations import pool_tokens, record_activations, split_image_tower
from .adapters import AdapterConfig, ShiftAdapter, build_adapters, installed
from .augment import augment, mixup
from .losses import category_margins, discrepancy_loss, inter_anomaly_loss, intra_anomaly_loss, uniform_weights
from .train import Aligned, AlignmentConfig, align

__all__ = ["AdapterConfig", "Aligned", "AlignmentConfig", "ShiftAdapter", "align", "augment", "build_adapters"]
__all__ += ["category_margins", "discrepancy_loss", "installed", "inter_anomaly_loss", "intra_anomaly_loss", "mixup"]
__all__ += ["pool_tokens", "record_activations", "split_image_tower", "uniform_weights"]
