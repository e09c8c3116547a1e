"""The HTML report: one page with everything inside, which needs no network and works from a mail or a phone.

`page.html` is the page, filled by jinja2, which escapes every text; `style.css` and `charts.js` are put into it as they are. The
charts get their numbers from one JSON element. The page forbids itself every connection by its content security policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bvtdeploy import __version__
from bvtdeploy.profile.html import facts

_HERE = Path(__file__).parent


def report(
    profiles: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]] = (), *, now: datetime | None = None
) -> str:
    """The page of some profiles, and of comparisons between them.

    Args:
        profiles: as `Profile.as_dict()` gives them, or read from files.
        comparisons: as `Comparison.as_dict()` gives them.
        now: the date to print; None: this moment.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "ms": facts.ms,
        "amount": facts.amount,
        "size": facts.size,
        "percent": facts.percent,
        "name": facts.tail,
    }
    return environment.get_template("page.html").render(
        title=_title(profiles, comparisons),
        profiles=[facts.of_profile(p) for p in profiles],
        comparisons=[facts.of_comparison(c) for c in comparisons],
        data=_embedded({"profiles": [facts.chart_data(p) for p in profiles], "comparisons": [_slim(c) for c in comparisons]}),
        style=(_HERE / "style.css").read_text(encoding="utf-8"),
        script=(_HERE / "charts.js").read_text(encoding="utf-8"),
        version=__version__,
        date=(now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _title(profiles: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(facts.tail(p["artifact"]) for p in profiles))
    return f"{' and '.join(names)}: {'comparison' if comparisons else 'profile'}"


def _slim(comparison: Mapping[str, Any]) -> dict[str, Any]:
    return {"totals": comparison["totals"], "ops": list(comparison["ops"])[:25], "comparable": comparison["comparable"]}


def _embedded(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
