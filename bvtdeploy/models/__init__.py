"""Torch definitions of the model families, in their published checkpoint layouts."""

from bvtdeploy.models.bhvit import BHViT, BHViTConfig
from bvtdeploy.models.binaryvit_le import BinaryViTLe, BinaryViTLeConfig
from bvtdeploy.models.checkpoint import Checkpoint, load_model, read_checkpoint
from bvtdeploy.models.zoo import create, names

__all__ = [
    "BHViT",
    "BHViTConfig",
    "BinaryViTLe",
    "BinaryViTLeConfig",
    "Checkpoint",
    "create",
    "load_model",
    "names",
    "read_checkpoint",
]
