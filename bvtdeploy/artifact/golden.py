"""Golden inputs that are not stored but made, by the same function here and in the runtime (`bvt_golden_input`), bit for bit.

For element i = r*cols + c of an input of rows x cols and a 64-bit seed, in unsigned 64-bit arithmetic that wraps:

    z     = seed + (i + 1) * 0x9E3779B97F4A7C15                        splitmix64: a hash of the counter, without a state
    z     = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z     = (z ^ (z >> 27)) * 0x94D049BB133111EB
    noise = (z ^ (z >> 31)) >> 57                                      0 .. 127
    ramp  = (r + c) * 127 * (1 + seed mod 8) / (rows + cols) mod 128   the division drops the remainder
    x     = (float(noise + ramp) / 255 - 0.5) * 4                      three fp32 operations
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def golden_input(seed: int, rows: int, cols: int) -> npt.NDArray[np.float32]:
    """The input f32[rows x cols] of a seed (0 .. 2^64 - 1): noise of 8-bit pixels over a ramp, scaled to -2 .. 2.

    Raises OverflowError where the seed is negative or needs more than 64 bits.
    """
    z = np.uint64(seed) + np.arange(1, rows * cols + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    noise = ((z ^ (z >> np.uint64(31))) >> np.uint64(57)).astype(np.int64).reshape(rows, cols)
    ramp = np.add.outer(np.arange(rows), np.arange(cols)) * (127 * (1 + seed % 8)) // (rows + cols) % 128
    pixels: npt.NDArray[np.float32] = (noise + ramp).astype(np.float32)
    return (pixels / np.float32(255) - np.float32(0.5)) * np.float32(4)
