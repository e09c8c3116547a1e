"""How `models` looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bvtdeploy.console import Console, amount, size

if TYPE_CHECKING:
    from bvtdeploy.api import ExportedModel
    from bvtdeploy.models.zoo import ModelFacts


def show_models(console: Console, models: Sequence[ModelFacts]) -> None:
    """The named models and their costs."""
    rows = [
        (
            m.name,
            m.family,
            "x".join(map(str, m.input_shape)),
            m.classes,
            amount(m.parameters),
            amount(m.macs_binary),
            amount(m.macs_float),
            size(m.packed_bytes),
        )
        for m in models
    ]
    console.table(
        ["model", "family", "input", "classes", "parameters", "binary MACs", "float MACs", "packed"],
        rows,
        align="nlnrrrrr",
        optional=("input", "classes"),
    )
    console.say("weights are random: bvtdeploy models export NAME -o model.pt2 writes one to try the compiler on", style="dim")


def show_exported(console: Console, exported: ExportedModel) -> None:
    """The file that was written."""
    kind = "an exported program" if exported.kind == "pt2" else "a checkpoint"
    console.say(f"{exported.file}: {exported.model} as {kind}, {size(exported.bytes)}, random weights of seed {exported.seed}")
