"""How `devices` looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bvtdeploy.console import Console

if TYPE_CHECKING:
    from bvtdeploy.device.adding import Added
    from bvtdeploy.device.examine import Examination
    from bvtdeploy.device.registry import Entry


def show_devices(console: Console, known: Sequence[Entry]) -> None:
    """The named devices."""
    if not known:
        console.say("no device has a name yet: bvtdeploy devices add NAME user@host")
        return
    rows = [(e.name, e.address, e.board or "recognised", e.folder or "", e.key or "") for e in known]
    console.table(["device", "address", "board", "folder", "host key"], rows, align="nnnnn", optional=["host key"])


def show_added(console: Console, added: Added) -> None:
    """What was noted, and what the device is."""
    entry = added.entry
    console.good(
        f"{entry.name} is {entry.address}; its host key {entry.key} " + ("was known" if added.known_before else "is recorded")
    )
    if added.problem is None:
        console.good(f"{added.model}: board {added.board}")
    else:
        console.bad("it is noted, but it cannot be used yet: " + added.problem.what)
        if added.problem.why:
            console.note(added.problem.why)
        console.note(added.problem.fix or f"bvtdeploy devices doctor {entry.name} says more")


def show_device(console: Console, described: Mapping[str, Any]) -> None:
    """What is known of a device."""
    entry = described["device"]
    console.say(entry["name"], style="bold")
    console.facts(
        [
            ("address", entry["address"]),
            ("route", described["route"]),
            ("port", described["port"]),
            ("proxy command", described["proxy_command"]),
            ("board", entry["board"] or "recognised at each use"),
            ("folder", entry["folder"] or "the user's cache folder"),
            ("keys to log in", ", ".join(described["identities"]) or "none in files"),
            *(
                (f"host key {i}", f"{key['kind']} {key['fingerprint']} ({key['file']}:{key['line']})")
                for i, key in enumerate(described["host_keys"], 1)
            ),
        ]
    )


def show_examined(console: Console, examined: Examination) -> None:
    """One line a check, with what to do."""
    console.say(f"{examined.device}: {examined.model or 'a system that does not say what it is'}", style="bold")
    words = {"ok": "ok", "failed": "FAILED", "unknown": "unknown"}
    rows = [(check.name, words[check.state], check.found, check.fix) for check in examined.checks]
    console.table(["check", "", "found", "what to do"], rows, align="nnll")
    if not examined.ok:
        console.bad("nothing runs there before what failed is put right")
