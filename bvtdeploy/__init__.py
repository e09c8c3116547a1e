"""Compiles trained binary Vision Transformers for ARM boards and proves that the board computes the same bits.

`compile`, `verify`, `build`, `profile` and the other functions of `bvtdeploy.api` are here too; they are loaded when first used, so
that importing the package is quick and needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bvtdeploy.api import boards, build, compile, doctor, inspect, profile, run, verify  # noqa: A004

__version__ = "0.1.0"
__all__ = ["__version__", "boards", "build", "compile", "doctor", "inspect", "profile", "run", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from bvtdeploy import api

        return getattr(api, name)
    raise AttributeError(f"module 'bvtdeploy' has no attribute '{name}'")
