"""What the families share to tell a configuration from the keys and shapes of a state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from torch import Tensor

from bvtdeploy.errors import UserError

# Names that the published configuration files of the pyramids use for our fields.
PYRAMID_NAMES = {
    "hidden_size": "dims",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "reduction_ratio": "reduction",
    "num_channels": "in_channels",
    "num_labels": "num_classes",
    "avg_res3": "pool3",
    "avg_res5": "pool5",
}


class _Config(Protocol):
    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Any: ...


C = TypeVar("C", bound=_Config)


def renamed(stated: Mapping[str, Any] | None, names: Mapping[str, str]) -> dict[str, Any]:
    """Stated entries under our names; an entry under our own name wins over one under a published name."""
    stated = stated or {}
    found = {names[k]: v for k, v in stated.items() if k in names}
    return {**found, **{k: v for k, v in stated.items() if k not in names}}


def count(state: Mapping[str, Tensor], before: str, after: str, first: int = 0) -> int:
    """How many numbered entries there are: BEFORE0AFTER, BEFORE1AFTER, ... without a gap."""
    number = first
    while f"{before}{number}{after}" in state:
        number += 1
    return number - first


def tensor(state: Mapping[str, Tensor], key: str, rank: int, where: str) -> Tensor:
    """An entry that the configuration is read from."""
    found = state.get(key)
    if found is None or found.dim() != rank:
        raise UserError(
            "the checkpoint's configuration cannot be told from its keys",
            where=where,
            why=f"{key} is missing" if found is None else f"{key} has shape {list(found.shape)}, {rank} dimensions are expected",
            fix="check that the file is complete",
        )
    return found


def norm_kind(state: Mapping[str, Tensor]) -> str:
    """"batch" where the branches' norms have running statistics, else "layer"."""
    return "batch" if any(k.endswith(".running_mean") for k in state) else "layer"


def configure(kind: type[C], values: Mapping[str, Any], stated: Mapping[str, Any], where: str) -> C:
    """The configuration of what was inferred and stated; stated entries win."""
    make: Callable[[Mapping[str, Any]], C] = kind.from_dict
    try:
        return make({**values, **stated})
    except (ValueError, TypeError) as error:
        raise UserError(
            "the checkpoint's shapes make no configuration of its family",
            where=where,
            why=str(error),
            fix='state what cannot be inferred in the file\'s "config" entry, for example {"heads": [...], "reduction": [...]}',
        ) from error
