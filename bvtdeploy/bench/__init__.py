"""Benchmarks against other runtimes: times in this process, and executed instructions on emulated boards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bvtdeploy.boards import suggest
from bvtdeploy.errors import UserError

if TYPE_CHECKING:
    from bvtdeploy.bench.measure import Measured
    from bvtdeploy.bench.modelled import Modelled


@dataclass(frozen=True)
class Bench:
    """What a benchmark found: times against peers, counted instructions with modelled times, or both."""

    artifact: str
    measured: Measured | None
    modelled: Modelled | None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know of the input."""
        return self.measured.warnings if self.measured else ()

    def as_dict(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "artifact": self.artifact,
            "measured": self.measured.as_dict() if self.measured else None,
            "modelled": self.modelled.as_dict() if self.modelled else None,
        }


def run_bench(
    path: Path,
    *,
    against: Sequence[str],
    model: Path | None,
    threads: Sequence[int],
    rounds: int | None,
    boards: Sequence[str],
    like: str | None,
    trust_pickle: bool,
    model_output: str | int | None,
    progress: Callable[[str], None] | None,
) -> Bench:
    """Time an artifact against the peers `against`, and model it on `boards`; `bvtdeploy.api.bench` has the arguments."""
    from bvtdeploy.bench.measure import measure
    from bvtdeploy.bench.modelled import model as model_boards
    from bvtdeploy.bench.peers import ENGINES
    from bvtdeploy.bench.shape import KNOWN

    for name in against:
        if name not in ENGINES:
            raise UserError(f"there is no peer '{name}'", where="--against", fix=suggest(name, ENGINES))
    if like is not None and like not in KNOWN:
        raise UserError(f"there is no plain ViT '{like}'", where="--like", fix=suggest(like, KNOWN))
    if model is not None and not model.is_file():
        raise UserError("there is no such model", where=str(model), fix="give the file that was compiled")
    modelled = model_boards(path, boards, like=like, progress=progress) if boards else None
    measured = None
    if against:
        measured = measure(
            path,
            against=tuple(dict.fromkeys(against)),
            model=model,
            threads=tuple(dict.fromkeys(threads)),
            rounds=rounds,
            like=like,
            trust_pickle=trust_pickle,
            model_output=model_output,
            progress=progress,
        )
    return Bench(str(path), measured, modelled)
