"""verify: an artifact against its source model, and against itself on every executor."""

from bvtdeploy.verifier.check import VerifyReport, same_bits, verify_model
from bvtdeploy.verifier.images import ImageSet, load_images

__all__ = ["ImageSet", "VerifyReport", "load_images", "same_bits", "verify_model"]
