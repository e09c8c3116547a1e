"""Reading checkpoints: weights only, never code.

A file is either a bare state dict or a dict with one under ``"model"``, ``"state_dict"``, ``"model_state_dict"`` or ``"net"``, or,
where there is none of these, averaged weights under ``"model_ema"``, ``"state_dict_ema"`` or ``"ema"``; prefixes that wrappers put
before all keys (``module.`` and the like) are taken off. Beside the model it may carry a ``"config"`` dict of
plain types, under our names or those of the published configuration files. The family and its configuration are inferred from
key names and shapes; what cannot be inferred is taken from ``"config"``, else assumed as in the published model.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bvtdeploy.errors import Problem, UserError
from bvtdeploy.models.families import FAMILIES, Family

_COUNTER = "num_batches_tracked"
_SWITCH = "init_state"  # of a quantiser: 0 until its scales were set
_MODEL = ("model", "state_dict", "model_state_dict", "net")
_AVERAGED = ("model_ema", "state_dict_ema", "ema")
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.")  # of DataParallel, torch.compile and training frameworks
_SAVE = 'save it as torch.save({"model": model.state_dict()}, path)'


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
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol: that is an error of ours, or no matter
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        objects = [found[1]] if found else _globals(Path(path))
        if not objects:
            protocol = _pickle_of(Path(path))[1:2]
            why = f"its pickle has protocol {protocol[0]}, torch reads 2" if protocol > b"\2" else ""
            raise UserError(what="the file is not a readable torch checkpoint", where=where, why=why, fix=_SAVE) from error
        raise UserError(
            what="the checkpoint can only be loaded by running code from it, and is refused",
            where=where,
            why=f"it contains an object of {', '.join(objects[:4])}",
            fix="save the tensors alone, with the program that made the file: "
            'torch.save({"model": torch.load(path, weights_only=False)["model"]}, new_path), or model.state_dict() where the file '
            "is a whole module",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(what="the file is not a readable torch checkpoint", where=where, why=str(error).split("\n")[0]) from error
    return unwrap(loaded, where)


def _pickle_of(path: Path) -> bytes:
    """The pickle in a file of torch.save or pickle.dump; empty where there is none of a protocol that names itself."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                data = next((archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")), b"")
        else:
            data = path.read_bytes()
    except (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return b""
    return data if data[:1] == pickle.PROTO and data[1:2] <= bytes([pickle.HIGHEST_PROTOCOL]) else b""


def _globals(path: Path) -> list[str]:
    """What a pickle of a protocol that torch does not read would import beside what torch.save needs; it is read, not run."""
    names: list[str] = []
    strings: list[str] = []  # STACK_GLOBAL takes the last two: a module and a name in it
    memo: list[str] = []
    try:
        for code, argument, _ in pickletools.genops(_pickle_of(path)):
            if code.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", ".", 1))
            elif code.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
            elif code.name == "MEMOIZE":
                memo.append(strings[-1] if strings else "")
            elif code.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int) and argument < len(memo):
                strings.append(memo[argument])
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # noqa: BLE001  (the reader raises what damaged bytes lead it to)
        strings.clear()  # what came before the damage counts
    foreign = [name for name in dict.fromkeys(names) if name != "collections.OrderedDict" and not name.startswith("torch.")]
    return [re.sub(r"[^\w.]", "?", name[:80]) for name in foreign]  # the file may have put anything there


def unwrap(loaded: Any, where: str = "") -> Checkpoint:
    """Split what a file held, or a dict in the same form, into state dict, configuration and the rest."""
    state: Any = loaded
    config: Any = {}
    extra: dict[str, Any] = {}
    key = _wrapped_under(loaded, where) if isinstance(loaded, Mapping) else None
    if isinstance(loaded, Mapping) and key is not None:
        state, config = loaded[key], loaded.get("config") or {}
        extra = {str(k): v for k, v in loaded.items() if k not in (key, "config")}
    if not isinstance(state, Mapping) or not any(isinstance(v, Tensor) for v in state.values()):
        raise UserError(
            what="the checkpoint holds no state dict",
            where=where,
            why=f"neither the file nor one of its entries {', '.join(_MODEL + _AVERAGED)} is a dict of tensors",
            fix=_SAVE,
        )
    if not isinstance(config, Mapping):
        raise UserError(what="the checkpoint's 'config' is not a dict", where=where)
    tensors = {str(k): v for k, v in state.items()}
    problems = [_key(k, why) for k, v in tensors.items() if (why := _unusable(v))]
    if problems:
        raise UserError(
            what="entries of the state dict are no plain tensors", where=where, problems=problems,
            fix="keep everything but the model's tensors beside the state dict, not in it: "
            'torch.save({"model": model.state_dict(), "epoch": epoch}, path)',
        )  # fmt: skip
    while found := [w for w in _WRAPPERS if all(k.startswith(w) for k in tensors)]:
        tensors = {k.removeprefix(found[0]): v for k, v in tensors.items()}
    return Checkpoint(tensors, {str(k): v for k, v in config.items()}, extra)


def _wrapped_under(loaded: Mapping[Any, Any], where: str) -> str | None:
    """The entry that is the model's state dict; None where there is none, so that the dict itself must be one."""
    held = [k for k in _MODEL if isinstance(loaded.get(k), Mapping)]
    averaged = [k for k in _AVERAGED if isinstance(loaded.get(k), Mapping)]
    if len(held) > 1:
        raise UserError(
            what="the checkpoint holds several models", where=where, why="entries " + " and ".join(held),
            fix=f'keep one: torch.save({{"model": torch.load(path)["{held[0]}"]}}, new_path)',
        )  # fmt: skip
    return next(iter(held + averaged), None)


def _unusable(value: Any) -> str:
    """Why a value cannot be an entry of a state dict; empty where it can."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, not a tensor"
    if value.is_meta:
        return "it has a shape, but no values"
    if value.is_quantized or value.is_complex() or value.layout != torch.strided:
        return f"neither real nor whole numbers in rows: {value.dtype}, {value.layout}"
    return ""


def load_into(model: nn.Module, state: Mapping[str, Tensor], where: str = "") -> None:
    """Fill the model; every missing, unexpected, mis-shaped or non-finite entry is reported in one error."""
    expected = model.state_dict()
    given = {k: v for k, v in state.items() if not k.endswith(_COUNTER)}
    wanted = {k: v for k, v in expected.items() if not k.endswith(_COUNTER)}
    missing, unexpected = [k for k in wanted if k not in given], [k for k in given if k not in wanted]
    problems = [_key(k, f"missing; the model needs {list(wanted[k].shape)}") for k in missing]
    problems += [_key(k, f"unexpected, of shape {list(given[k].shape)}") for k in unexpected]
    for key in sorted(wanted.keys() & given.keys()):
        if wanted[key].shape != given[key].shape:
            problems.append(_key(key, f"of shape {list(given[key].shape)}; the model needs {list(wanted[key].shape)}"))
        elif not bool(torch.isfinite(given[key]).all()):
            problems.append(_key(key, "its values are not all finite"))
        elif key.rsplit(".", 1)[-1] == _SWITCH and not bool((given[key] != 0).all()):
            problems.append(_key(key, "it is 0: the scales beside it were never set"))
    if problems:
        raise UserError(
            what=f"the checkpoint does not fit the model: {len(problems)} problem(s)",
            where=where,
            fix=_without(model, unexpected)
            if len(unexpected) == len(problems)
            else 'nothing was written; check that the file is complete and that its "config" entry, if it has one, is right',
            problems=problems,
        )
    model.load_state_dict(given, strict=False)


def load_model(source: str | Path | Mapping[str, Any], config: Mapping[str, Any] | None = None) -> nn.Module:
    """A model in eval mode from a checkpoint file, or from a state dict, bare or wrapped. ``config`` entries win."""
    where = str(source) if isinstance(source, (str, Path)) else ""
    checkpoint = read_checkpoint(source) if isinstance(source, (str, Path)) else unwrap(source)
    family = family_of(checkpoint.state, where)
    try:
        model = family.build(family.infer_config(checkpoint.state, {**checkpoint.config, **(config or {})}, where))
    except UserError as error:
        error.problems = error.problems or tuple(_misfits(checkpoint.state, _patterns(family, checkpoint.state)))
        raise
    load_into(model, checkpoint.state, where)
    return model.eval()


def family_of(state: Mapping[str, Tensor], where: str = "") -> Family:
    """The family whose keys a state dict has."""
    found = next((family for family in FAMILIES if family.matches(state)), None)
    if found is None:
        nearest = max(FAMILIES, key=lambda family: _likeness(state, _patterns(family, state)))
        known = _patterns(nearest, state)
        alike = _likeness(state, known) > 0
        raise UserError(
            "the checkpoint is of no model family that is known",
            where=where,
            why=f"the nearest is {nearest.title}; the table has what is different there"
            if alike
            else "no key is one of a known family",
            problems=_misfits(state, known if alike else set()),
            fix=_part_of_a_family(state)
            + "known families: "
            + "; ".join(f"{f.title} ({f.keys})" for f in FAMILIES)
            + ". Any other model compiles from the program that torch.export makes of it (.pt2)",
        )
    return found


def _without(model: nn.Module, unexpected: list[str]) -> str:
    """How to save a state dict without what the model does not have."""
    own = {k.split(".")[0] for k in model.state_dict()}
    beside = tuple(sorted({k.split(".")[0] + "." for k in unexpected} - {name + "." for name in own}))
    code = f'torch.save({{"model": {{k: v for k, v in state.items() if not k.startswith({beside})}}}}, path)'
    return "nothing was written; where inference does not need them (a teacher, another head), save the model without them" + (
        f": {code}" if beside else ""
    )


def _part_of_a_family(state: Mapping[str, Tensor]) -> str:
    """What to do where the entries under one prefix are a model of a known family, beside others; else empty."""
    for prefix in sorted({k.split(".")[0] + "." for k in state if "." in k}):
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        family = next((family for family in FAMILIES if family.matches(part)), None)
        if family is not None:
            return (
                f"the entries under {prefix} are those of {family.title}; save them alone: torch.save("
                f'{{"model": {{k.removeprefix("{prefix}"): v for k, v in state.items() if k.startswith("{prefix}")}}}}, path). '
            )
    return ""


def _key(key: str, why: str) -> Problem:
    return Problem(key.rpartition(".")[2], key.rpartition(".")[0], why=why)


def _pattern(key: str) -> str:
    """A key with every number in its path as `*`."""
    return ".".join("*" if part.isdecimal() else part for part in key.split("."))


def _patterns(family: Family, state: Mapping[str, Tensor]) -> set[str]:
    """The key patterns of the small configuration of a family that a state dict is most like."""
    small = [config for name, config in family.configs.items() if name.endswith("_nano")]
    found = [{_pattern(k) for k in family.build(config).state_dict() if not k.endswith(_COUNTER)} for config in small]
    return max(found, key=lambda patterns: _likeness(state, patterns))


def _likeness(state: Mapping[str, Tensor], patterns: set[str]) -> float:
    """The share of key patterns that two models have in common."""
    ours = {_pattern(k) for k in state}
    return len(ours & patterns) / len(ours | patterns)


def _misfits(state: Mapping[str, Tensor], known: set[str]) -> list[Problem]:
    """What a state dict lacks of, and has beside, the key patterns of a family."""
    ours = [_pattern(k) for k in state if not k.endswith(_COUNTER)]
    problems = [_key(p, "missing") for p in sorted(known - set(ours))]
    beside = [replace(_key(p, "unexpected"), count=ours.count(p)) for p in dict.fromkeys(ours) if p not in known]
    return problems + beside
