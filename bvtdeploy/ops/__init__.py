"""The ops: source ops (what front ends import) and compiled ops (what the runtime executes, with an opcode).

`REGISTRY` maps every kind to its definition; importing this package fills it.
"""

from bvtdeploy.ops import (  # noqa: F401  (each module registers its ops)
    activation,
    attention,
    avg_pool,
    bgemm,
    binary,
    channel_pool,
    const,
    dense,
    dense_i8,
    elementwise,
    epilogue,
    gather,
    layer_norm_rows,
    layout,
    max_pool,
    mean_rows,
    mixed,
    mixed_gemm,
    multiply,
    norm_sign,
    norms_pools,
    patches,
    products,
    row_patches,
    stencil,
)
from bvtdeploy.ops.base import REGISTRY, Cost, OpDef

__all__ = ["REGISTRY", "Cost", "OpDef"]
