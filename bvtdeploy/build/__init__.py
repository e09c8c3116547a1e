"""Building the runtime for a board: toolchains, the build itself, and what is checked before the result is used."""

from bvtdeploy.build.elf import ElfFacts, check_elf, read_elf
from bvtdeploy.build.fits import check_fits, missing_features
from bvtdeploy.build.runtime import Build, build_runtime
from bvtdeploy.build.toolchains import Toolchain, find_toolchain

__all__ = [
    "Build",
    "ElfFacts",
    "Toolchain",
    "build_runtime",
    "check_elf",
    "check_fits",
    "find_toolchain",
    "missing_features",
    "read_elf",
]
