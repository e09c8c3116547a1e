"""The named models, each compiled in memory and compared with its source op by op."""

from __future__ import annotations

from typing import Any

import numpy as np

from bvtdeploy.verifier.forced import Forced, Source, teacher_force

IMAGES = 2


def check_model(name: str, *, seed: int = 0, images: int = IMAGES) -> Forced:
    """Makes a named model, compiles it and compares every op with PyTorch on random images.

    Raises UserError for a name that is none.
    """
    from bvtdeploy.frontend import import_model
    from bvtdeploy.models import zoo

    model: Any = zoo.create(name, seed)
    shape = (model.config.in_channels, model.config.image_size, model.config.image_size)
    source = Source(import_model(model, example_input=(1, *shape)))
    inputs = np.random.Generator(np.random.PCG64(seed)).standard_normal((images, *shape), np.float32)
    return teacher_force(source, inputs)


__all__ = ["check_model"]
