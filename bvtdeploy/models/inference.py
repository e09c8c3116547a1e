"""What the families' configurations share, and how one is told from the keys and shapes of a state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from bvtdeploy.errors import UserError

HEAD_DIM = 64  # channels of a head in the published models; the heads themselves are in no key

# Names that published configuration files and training scripts use for our fields.
_PUBLISHED = {
    "img_size": "image_size",
    "in_chans": "in_channels",
    "num_channels": "in_channels",
    "embed_dim": "dims",
    "hidden_size": "dims",
    "depth": "depths",
    "num_heads": "heads",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "reduction_ratio": "reduction",
    "window_size": "window",
    "num_labels": "num_classes",
    "avg_res3": "pool3",
    "avg_res5": "pool5",
    "enable_cls_token": "cls_token",
}

C = TypeVar("C", bound="StagedConfig")


@dataclass(frozen=True)
class StagedConfig:
    """Shape of a network of one or more stages; tuples have one entry per stage, and each stage halves the token grid.

    Whole numbers must be positive, or at least the `least` of their field's metadata. Raises ValueError for a shape that no network
    has.
    """

    family: ClassVar[str]  # what people call it, for messages
    layout: ClassVar[str]  # keys of its checkpoints, for messages

    image_size: int = 224
    in_channels: int = 3
    patch_size: int = 4
    dims: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 8, 4)
    heads: tuple[int, ...] = (1, 2, 4, 8)
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                raise ValueError(f"{field.name} must be true or false, got {value!r}")
            if field.type == "int":
                least = field.metadata.get("least", 1)  # a number of stages may be 0, a size may not
                if isinstance(value, bool) or int(value) != value or value < least:
                    what = "a positive integer" if least else "a whole number, 0 or more"
                    raise ValueError(f"{field.name} must be {what}, got {value!r}")
                object.__setattr__(self, field.name, int(value))
            if field.type == "tuple[int, ...]":
                values = tuple(int(v) for v in value)
                if not values or any(v < 1 for v in values):
                    raise ValueError(f"{field.name} must be positive integers, got {values}")
                if len(values) != len(self.dims):
                    raise ValueError(f"{field.name} has {len(values)} stages, dims has {len(self.dims)}")
                object.__setattr__(self, field.name, values)
        if self.image_size % (self.patch_size * 2 ** (len(self.dims) - 1)):
            halvings = f" and the {len(self.dims) - 1} halvings after it" if len(self.dims) > 1 else ""
            raise ValueError(f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}{halvings}")
        for stage, (dim, heads) in enumerate(zip(self.dims, self.heads, strict=True)):
            if self.has_heads(stage) and dim % heads:
                raise ValueError(f"stage {stage}: {dim} channels do not split into {heads} heads")

    def has_heads(self, stage: int) -> bool:
        """Whether the stage has attention."""
        return True

    def side(self, stage: int = 0) -> int:
        """Tokens along one side of the stage's (square) token grid."""
        return self.image_size // self.patch_size // (1 << stage)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, so that a checkpoint with it loads with weights_only."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
        """The inverse of to_dict. Published names (``embed_dim``, ``num_heads``, ...) are understood, unknown entries ignored; one
        number stands for one stage."""
        kinds = {field.name: field.type for field in fields(cls)}
        given: dict[str, Any] = {k: v for k, v in renamed(values).items() if k in kinds and v is not None}
        for name, value in given.items():
            if kinds[name] == "tuple[int, ...]":
                given[name] = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        return cls(**given)


def renamed(stated: Mapping[str, Any] | None) -> dict[str, Any]:
    """Stated entries under our names; an entry under our own name wins over one under a published name."""
    stated = stated or {}
    found = {_PUBLISHED[k]: v for k, v in stated.items() if k in _PUBLISHED}
    return {**found, **{k: v for k, v in stated.items() if k not in _PUBLISHED}}


def configure(cls: type[C], infer: Callable[[], dict[str, Any]], stated: Mapping[str, Any] | None, where: str) -> C:
    """The configuration from what a state dict implies and what is stated, which wins; UserError where they make none."""
    try:
        values = infer()
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(
            f"the checkpoint does not have the {cls.family} key layout",
            where=where,
            why=f"there is no key {error.args[0]}" if isinstance(error, KeyError) else str(error),
            fix=f"expected {cls.layout}",
        ) from error
    try:
        return cls.from_dict({**values, **renamed(stated)})
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the checkpoint's shapes make no {cls.family} configuration",
            where=where,
            why=str(error),
            fix='state what cannot be inferred in the file\'s "config" entry, for example {"heads": [...], "image_size": 224}',
        ) from error


def shape_of(state: Mapping[str, Tensor], key: str, rank: int) -> tuple[int, ...]:
    """The shape of an entry, which must have this rank and no empty axis."""
    shape = tuple(state[key].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{key} has shape {list(shape)}, which should have {rank} axes")
    return shape


def count_keys(state: Mapping[str, Tensor], pattern: str, first: int = 0) -> int:
    """How many of pattern.format(first), pattern.format(first + 1), ... follow one another in the state dict."""
    number = first
    while pattern.format(number) in state:
        number += 1
    return number - first
