"""The pages under docs/: messages that they quote are messages that the tool prints, commands that they name exist, links lead
somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import rich_click as click

import bvtdeploy.cli  # noqa: F401 (its commands hang themselves into the group)
from bvtdeploy.cli.root import cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md")) + [ROOT / "examples" / "classify" / "README.md"]


@cache
def sources() -> list[str]:
    """Every file whose texts a user can see. Literals that are split over lines are joined, and names of values become gaps."""
    folders = ("bvtdeploy/**/*.py", "runtime_arm/src/**/*.c", "runtime_arm/tools/*.c", "examples/classify/*.*")
    found = []
    for path in (path for pattern in folders for path in ROOT.glob(pattern)):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8"))
        found.append(re.sub(r"\{[^{}\n]*\}|%(?:[-.\d]*(?:ll|z)?[a-z])", "…", text))
    return found


@cache
def literals() -> list[re.Pattern[str]]:
    """Texts of the sources with anything in their gaps, for messages that are put together: those that say something themselves."""
    found = {text for source in sources() for text in re.findall(r'"([^"\\\n]{16,})"', source)}
    return [re.compile(".+".join(map(re.escape, text.split("…")))) for text in found if len(text.replace("…", "").split()) > 2]


def headings(text: str) -> list[str]:
    """The messages that are headings."""
    return [m for line in text.splitlines() if line.startswith("### ") for m in re.findall(r"`([^`]+)`", line)]


def quoted() -> list[str]:
    """The messages of all pages: headings of one, the table of reasons of the other."""
    troubles = headings((ROOT / "docs" / "troubleshooting.md").read_text())
    table = re.findall(r"^\| `([^`]+)`", (ROOT / "docs" / "measuring-on-a-pi.md").read_text(), re.MULTILINE)
    return troubles + table


@pytest.mark.parametrize("message", quoted())
def test_a_quoted_message_is_in_the_sources(message: str) -> None:
    parts = [part.strip() for part in re.split(r"…|\.\.\.|\d+", message)]
    parts = [part for part in parts if len(part) > 3 or part == message]
    assert parts, message
    assert any(all(part in text for part in parts) for text in sources()) or any(text.search(message) for text in literals()), parts


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command of ours that stands in a block or between backticks."""
    found = []
    for page in PAGES:
        text = page.read_text()
        lines = re.findall(r"^    (bvtdeploy .*)$", text, re.MULTILINE) + re.findall(r"`(bvtdeploy [^`]+)`", text)
        found += [(page.name, line.split("#")[0].split()[1:]) for line in lines]
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: " ".join(value) if isinstance(value, list) else value)
def test_a_command_exists_with_its_options(page: str, words: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{page}: {words}"
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word.split("=")[0] for word in words if word.startswith("--")} <= known, f"{page}: {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:runtime_arm|examples|docker|bvtdeploy)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
