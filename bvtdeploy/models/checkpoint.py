"""Reading checkpoints: weights only, never code.

A file is either a bare state dict or ``{"model": state dict, ...}``; beside the model it may carry a ``"config"`` dict of
plain types. The configuration is inferred from key names and shapes; what cannot be inferred is taken from ``"config"``,
else assumed as in the published model (heads of 64 channels, keys and values reduced to the token grid of the last stage).
"""

from __future__ import annotations

import argparse
import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvtdeploy.errors import UserError
from bvtdeploy.models.binaryvit_le import BinaryViTLe, BinaryViTLeConfig

_COUNTER = "num_batches_tracked"
_PUBLISHED_NAMES = {
    "hidden_size": "dims",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "reduction_ratio": "reduction",
}


@dataclass
class Checkpoint:
    """A loaded file: the state dict, the configuration it states (may be empty) and everything else in it."""

    state: dict[str, Tensor]
    config: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Load a file without running code from it."""
    where = str(path)
    if not Path(path).is_file():
        raise UserError(what="there is no such checkpoint file", where=where)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            what="the checkpoint can only be loaded by running code from it, and is refused",
            where=where,
            why=f"it contains an object of {found[1]}" if found else "it is not a file of tensors and plain values",
            fix='save the state dict alone: torch.save({"model": model.state_dict()}, path)',
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(what="the file is not a readable torch checkpoint", where=where, why=str(error).split("\n")[0]) from error
    return unwrap(loaded, where)


def unwrap(loaded: Any, where: str = "") -> Checkpoint:
    """Split what a file held, or a dict in the same form, into state dict, configuration and the rest."""
    state: Any = loaded
    config: Any = {}
    extra: dict[str, Any] = {}
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        state, config = loaded["model"], loaded.get("config") or {}
        extra = {str(k): v for k, v in loaded.items() if k not in ("model", "config")}
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            what="the checkpoint holds no state dict",
            where=where,
            why="neither the file nor its 'model' entry is a dict of tensors",
            fix='save it as torch.save({"model": model.state_dict()}, path)',
        )
    if not isinstance(config, Mapping):
        raise UserError(what="the checkpoint's 'config' is not a dict", where=where)
    tensors = {str(k): v for k, v in state.items()}
    if all(k.startswith("module.") for k in tensors):
        tensors = {k.removeprefix("module."): v for k, v in tensors.items()}
    return Checkpoint(tensors, {_PUBLISHED_NAMES.get(str(k), str(k)): v for k, v in config.items()}, extra)


def infer_config(state: Mapping[str, Tensor], stated: Mapping[str, Any] | None = None, where: str = "") -> BinaryViTLeConfig:
    """The configuration that a state dict in the BinaryViT layout implies; ``stated`` entries take precedence."""
    layers = 0
    while f"vit.encoder.layer.{layers}.attention.attention.moveq" in state:
        layers += 1
    positions = [state.get("vit.embeddings.position_embeddings")]
    while (table := state.get(f"vit.encoder.patch_embed{len(positions)}.position_embeddings")) is not None:
        positions.append(table)
    stem, head = state.get("vit.embeddings.patch_embeddings.projection.weight"), state.get("classifier.weight")
    tables = [p for p in positions if p is not None and p.dim() == 3]
    if not layers or len(tables) < len(positions) or stem is None or stem.dim() != 4 or head is None or head.dim() != 2:
        raise UserError(
            what="the checkpoint does not have the BinaryViT key layout",
            where=where,
            why="keys found: " + ", ".join(sorted(state)[:5]) + ", ...",
            fix="expected vit.embeddings.*, vit.encoder.layer.N.*, vit.layernorm.*, classifier.*",
        )
    dims = [p.shape[2] for p in tables]
    sides = [math.isqrt(p.shape[1]) for p in tables]
    prefixes = [f"vit.encoder.layer.{i}." for i in range(layers)]
    widths = [state[p + "attention.attention.moveq"].shape[0] for p in prefixes]
    first = {width: prefix for prefix, width in reversed(list(zip(prefixes, widths, strict=True)))}

    def in_stage(dim: int, key: str) -> Tensor | None:
        return state.get(first.get(dim, "") + key)

    hidden = [in_stage(d, "intermediate.dense.weight") for d in dims]
    values: dict[str, Any] = {
        "image_size": sides[0] * stem.shape[2],
        "in_channels": stem.shape[1],
        "patch_size": stem.shape[2],
        "dims": dims,
        "depths": [widths.count(d) for d in dims],
        "heads": [max(1, d // 64) for d in dims],
        "intermediate": [d if w is None else w.shape[0] for d, w in zip(dims, hidden, strict=True)],
        "reduction": [
            1 if in_stage(d, "attention.attention.mover") is None else side // max(1, sides[-1])
            for d, side in zip(dims, sides, strict=True)
        ],
        "num_classes": head.shape[0],
        "pool3": prefixes[0] + "layerscale_w3.alpha" in state,
        "pool5": prefixes[0] + "layerscale_w5.alpha" in state,
        "some_fp": len(dims) > 1 and "vit.encoder.patch_embed1.move" not in state,
    }
    values.update(stated or {})
    try:
        return BinaryViTLeConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise UserError(
            what="the checkpoint's shapes make no BinaryViT configuration",
            where=where,
            why=str(error),
            fix='state what cannot be inferred in the file\'s "config" entry, for example {"heads": [...], "reduction": [...]}',
        ) from error


def load_into(model: nn.Module, state: Mapping[str, Tensor], where: str = "") -> None:
    """Fill the model; every missing, unexpected, mis-shaped or non-finite entry is reported in one error."""
    expected = model.state_dict()
    given = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    wanted = {k: v for k, v in expected.items() if not k.endswith(_COUNTER)}
    problems = [f"missing {k} {list(v.shape)}" for k, v in wanted.items() if k not in given]
    problems += [f"unexpected {k} {list(v.shape)}" for k, v in given.items() if k not in wanted]
    for key in wanted.keys() & given.keys():
        if wanted[key].shape != given[key].shape:
            problems.append(f"shape of {key} is {list(given[key].shape)}, the model needs {list(wanted[key].shape)}")
        elif not bool(torch.isfinite(given[key]).all()):
            problems.append(f"values of {key} are not all finite")
    if problems:
        raise UserError(
            what=f"the checkpoint does not fit the model: {len(problems)} problem(s)",
            where=where,
            why="\n       ".join(sorted(problems)),
            fix='check that the file is complete and that its "config" entry, if it has one, is right',
        )
    model.load_state_dict(given, strict=False)


def load_model(source: str | Path | Mapping[str, Any], config: Mapping[str, Any] | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint file, or from a state dict, bare or wrapped. ``config`` entries win."""
    where = str(source) if isinstance(source, (str, Path)) else ""
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else unwrap(source)
    stated = {**checkpoint.config, **{_PUBLISHED_NAMES.get(k, k): v for k, v in (config or {}).items()}}
    model = BinaryViTLe(infer_config(checkpoint.state, stated, where))
    load_into(model, checkpoint.state, where)
    return model.eval()
