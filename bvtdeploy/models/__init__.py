"""Torch definitions of the model families, in their published checkpoint layouts."""

from bvtdeploy.models.binaryvit_le import BinaryViTLe, BinaryViTLeConfig
from bvtdeploy.models.checkpoint import Checkpoint, load_model, read_checkpoint

__all__ = ["BinaryViTLe", "BinaryViTLeConfig", "Checkpoint", "load_model", "read_checkpoint"]
