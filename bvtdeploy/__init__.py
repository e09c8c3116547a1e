"""Compiles trained binary Vision Transformers for ARM boards and proves that the board computes the same bits.

The functions of `bvtdeploy.api` (`compile`, `verify`, `build`, `profile`, ..) are here too, loaded when first used: importing the
package is quick and needs no torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvtdeploy.api import (
        add_device,
        bench,
        bench_kernels,
        board,
        boards,
        build,
        check_models,
        clean_device,
        compare,
        compile,  # noqa: A004
        describe_device,
        devices,
        doctor,
        examine_device,
        export_model,
        inspect,
        models,
        profile,
        profile_all,
        remove_device,
        run,
        tune,
        verify,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "add_device",
    "bench",
    "bench_kernels",
    "board",
    "boards",
    "build",
    "check_models",
    "clean_device",
    "compare",
    "compile",
    "describe_device",
    "devices",
    "doctor",
    "examine_device",
    "export_model",
    "inspect",
    "models",
    "profile",
    "profile_all",
    "remove_device",
    "run",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bvtdeploy import api

        return getattr(api, name)
    raise AttributeError(f"module 'bvtdeploy' has no attribute '{name}'")


class _Package(ModuleType):
    """Importing the package `bvtdeploy.profile`, as the function of that name does, must not put it in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in __all__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
