"""The report in a real browser: it draws everything, says nothing on the console, asks nobody for anything, and fits a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from board_samples import ORIN
from reports import made_profile

from bvtdeploy import api
from bvtdeploy.profile.compare import compare
from bvtdeploy.profile.html import report
from bvtdeploy.profile.html.facts import MOST_MODULES, amount, chart_data, ms, size

EVIL = "</script><img src=x onerror=alert(1)>&\"'\u2028"
SCREENS = {"desktop": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync.sync_playwright() as play:
        try:  # root may not use the sandbox
            opened = play.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        except sync.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


def looks() -> tuple[dict[str, Any], ...]:
    one = {"run": 0, "throttled": None, "events": {}, "cooling": {}, "rails_mw": {"VDD_IN": 5000.0}}
    return tuple(
        {**one, "at_ms": 500.0 * i, "khz": {"policy0": 1_500_000 + i}, "temperatures_c": {"cpu": 50.0 + i}} for i in range(4)
    )


def full_page() -> str:
    energy = {"rails": {"VDD_IN": {"mw": 5000.0, "idle_mw": None, "mj": 12.0}}, "total": "VDD_IN"}
    first = made_profile(files=ORIN, during=looks(), energy=energy, module=f"layer{EVIL}")
    second = made_profile(files=ORIN, faster=("v0", 0.6), scale=0.8, module=f"layer{EVIL}")
    first |= {"artifact": EVIL, "device": EVIL, "notes": [EVIL], "stable": False, "unstable_because": [f"throttled {EVIL}"]}
    return report([first, second], [compare(first, second).as_dict()])


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser: Any, tmp_path: Path, screen: str, scheme: str) -> None:
    page = tmp_path / "r.html"
    page.write_text(full_page(), encoding="utf-8")
    width, height = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: told.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-drawn=yes]")
    assert told == []
    assert asked == [page.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    charts = "[...document.querySelectorAll('.chart')].filter(c => !c.closest('[hidden]'))"
    assert tab.evaluate(f"{charts}.filter(c => !c.querySelector('svg *')).length") == 0
    drawn = tab.evaluate(f"[...new Set({charts}.map(c => c.dataset.chart))].sort()")
    assert len(drawn) == 10  # every chart there is
    outside = tab.evaluate(
        f"{charts}.flatMap(c => [...c.querySelectorAll('text')]).filter(t => {{ const b = t.getBoundingClientRect();"
        " return b.width > 0 && (b.left < 0 || b.right > innerWidth); }).map(t => t.textContent)"
    )
    assert outside == []
    assert not re.search(r"NaN|undefined|Infinity", tab.evaluate("document.body.innerText"))
    background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == (scheme == "dark")
    tab.hover(".chart[data-chart=kinds] rect")
    assert "bgemm" in tab.inner_text("#tip")
    context.close()


def test_a_real_profile(browser: Any, artifact: Path, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    page.write_text(report([api.profile(artifact, runs=5, warmup=1).as_dict()]), encoding="utf-8")
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-drawn=yes]")
    assert errors == []
    assert tab.locator(".chart[data-chart=timeline] rect").count() > 10
    assert tab.locator("h1").inner_text().startswith("fashion.bvt on ")
    tab.close()


def test_texts_are_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    made = full_page()
    assert EVIL not in made and "<img" not in made
    assert made.count("</script>") == 2  # the data's and the charts'
    assert all(link.startswith("#") for link in re.findall(r"<[^>]*\s(?:src|href)=[\"']?([^\"'\s>]*)", made))
    assert "url(" not in made and "@import" not in made
    assert "default-src 'none'" in made


def test_the_heaviest_modules_are_divided() -> None:
    profile = made_profile()
    paths = [f"a.{i}.{j}" for i in range(4) for j in range(30)] + ["a", "b"]
    profile["ops"] = [profile["ops"][0] | {"module": path, "ms": 5.0 if path.startswith("a.0") else 0.1} for path in paths]
    shown = [m["module"] for m in chart_data(profile)["modules"]]
    assert len(shown) <= MOST_MODULES and {"a", "a.1", "b"} <= set(shown)
    total = sum(sum(m["kinds"].values()) for m in chart_data(profile)["modules"])
    assert total == pytest.approx(sum(op["ms"] for op in profile["ops"]))


def test_numbers_for_people() -> None:
    assert [ms(x) for x in (123.4, 12.34, 1.234, 0.1234, 0.01234, None)] == ["123", "12.3", "1.23", "0.123", "0.0123", "–"]
    assert [amount(x) for x in (0, 12, 1234, 1.5e6, 3.2e9, None)] == ["0", "12", "1.23 k", "1.5 M", "3.2 G", "–"]
    assert [size(x) for x in (12, 1234, 2.5e6)] == ["12 B", "1.23 kB", "2.5 MB"]
