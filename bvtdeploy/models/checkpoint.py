"""Reading checkpoints: weights only, never code.

A file is either a bare state dict or ``{"model": state dict, ...}``; beside the model it may carry a ``"config"`` dict of
plain types, under our names or those of the published configuration files. The family and its configuration are inferred from
key names and shapes; what cannot be inferred is taken from ``"config"``, else assumed as in the published model.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvtdeploy.errors import UserError
from bvtdeploy.models.families import FAMILIES, Family

_COUNTER = "num_batches_tracked"
_SWITCH = "init_state"  # of a quantiser: 0 until its scales were set


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
    return Checkpoint(tensors, {str(k): v for k, v in config.items()}, extra)


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
        elif key.rsplit(".", 1)[-1] == _SWITCH and not bool((given[key] != 0).all()):
            problems.append(f"the scales beside {key} were never set: it is 0")
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
    family = family_of(checkpoint.state, where)
    model = family.build(family.infer_config(checkpoint.state, {**checkpoint.config, **(config or {})}, where))
    load_into(model, checkpoint.state, where)
    return model.eval()


def family_of(state: Mapping[str, Tensor], where: str = "") -> Family:
    """The family whose keys a state dict has."""
    found = next((family for family in FAMILIES if family.matches(state)), None)
    if found is None:
        keys = sorted(state)
        raise UserError(
            "the checkpoint is of no model family that is known",
            where=where,
            why="keys found: " + ", ".join(keys[:6]) + (", ..." if len(keys) > 6 else ""),
            fix="known families: " + "; ".join(f"{f.title} ({f.keys})" for f in FAMILIES) + ". Any other model compiles from the "
            "program that torch.export makes of it (.pt2)",
        )
    return found
