"""Energy of an inference, where the board measures its own power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

# The rail through which everything comes, by what boards call it.
TOTALS = ("VDD_IN", "POM_5V_IN", "VIN", "VIN_SYS")


def energy(before: Mapping[str, Any], during: Sequence[Mapping[str, Any]], mean_ms: float) -> tuple[dict[str, Any] | None, str]:
    """Power by rail during the timed runs, and what an inference took of it; or None and why not.

    The first look is before the first run: of the others each reads the sensors right after a run, and those average over some
    milliseconds. `idle_mw` is from the record before the runs.

    Args:
        before: the environment record.
        during: the looks between the runs.
        mean_ms: mean time of an inference.
    """
    if not before["rails_mw"]:
        return None, str(before["unavailable"].get("rails_mw", "no power rails that can be read"))
    seen = [look["rails_mw"] for look in during[1:] if look["rails_mw"]]
    if not seen:
        return None, "this board's power can be read by a program only, not between the runs"
    rails = {}
    for name in seen[0]:
        mw = mean(rail[name] for rail in seen if name in rail)
        rails[name] = {"mw": mw, "idle_mw": before["rails_mw"].get(name), "mj": mw * mean_ms / 1000}
    return {"rails": rails, "total": next((name for name in TOTALS if name in rails), None)}, ""
