"""A board in plain words: its cores, what programs for it may use, which layouts its products get and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bvtdeploy.boards.board import Board
from bvtdeploy.lower.weights import Product, choose, cycles

# (where it stands, rows, columns, outputs) of products of binary ViTs.
PRODUCTS: Final = (
    ("DeiT-Tiny, query, key, value", 197, 192, 192),
    ("DeiT-Tiny, MLP in", 197, 192, 768),
    ("DeiT-Tiny, MLP out", 197, 768, 192),
    ("DeiT-Small, MLP in", 197, 384, 1536),
    ("pyramid, first stage", 3136, 64, 64),
    ("pyramid, last stage", 49, 512, 512),
)
FEATURES: Final = {
    "neon": "vectors of 128 bits",
    "vfpv4": "fused multiply-add",
    "idiv": "division of whole numbers",
    "crc": "CRC-32",
    "lse": "atomic operations in one instruction (Armv8.1)",
    "rdma": "rounding multiply-accumulate (Armv8.1)",
    "fp16": "half precision arithmetic",
    "dotprod": "dot products of bytes",
    "rcpc": "weaker load-acquire (Armv8.3)",
}


@dataclass(frozen=True)
class Layout:
    """The layout of a binary product's weights on a board.

    Attributes:
        product: where such a product stands.
        rows, cols, outputs: its shape.
        layout: what is taken.
        cycles: layout -> modelled cycles on one core; empty where the board's file has no costs.
    """

    product: str
    rows: int
    cols: int
    outputs: int
    layout: str
    cycles: dict[str, float]


@dataclass(frozen=True)
class BoardFacts:
    """What `bvtdeploy boards show` tells.

    Attributes:
        board: the board.
        layouts: what products of usual shapes get.
        emulate: the device that has its instructions, such as "qemu:cortex-a72", or "".
    """

    board: Board
    layouts: tuple[Layout, ...]
    emulate: str

    def as_dict(self) -> dict[str, Any]:
        """The facts as JSON."""
        return {
            "board": self.board.as_dict(),
            "layouts": [vars(layout) for layout in self.layouts],
            "features": {name: FEATURES.get(name, "") for name in self.board.features},
            "emulate": self.emulate,
        }


def explain(board: Board) -> BoardFacts:
    """The facts of a board."""
    layouts = tuple(
        Layout(
            product,
            rows,
            cols,
            outputs,
            choose(board.costs, Product(rows, cols, outputs)).lower(),
            {name.lower(): round(cycles(cost, name, Product(rows, cols, outputs))) for name, cost in board.costs.items()},
        )
        for product, rows, cols, outputs in PRODUCTS
    )
    return BoardFacts(board, layouts, f"qemu:{board.qemu_cpu}" if board.qemu_cpu else "")
