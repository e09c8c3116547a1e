"""How `devices` looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bvtdeploy.console import Console

if TYPE_CHECKING:
    from bvtdeploy.device.adding import Added, Removed
    from bvtdeploy.device.examine import Examination
    from bvtdeploy.device.registry import Entry


_BEFORE = ("resolve", "connect", "host key", "authentication")  # checks without which a device cannot be asked what it is


def show_removed(console: Console, removed: Removed) -> None:
    """What was forgotten, and what of its host key."""
    entry = removed.entry
    if removed.key_forgotten:
        console.say(f"{entry.name} ({entry.address}) is forgotten, and its host key with it")
        return
    console.say(f"{entry.name} ({entry.address}) is forgotten")
    if removed.key_shared_with:
        console.note(f"its host key stays: {', '.join(removed.key_shared_with)} has the same address")
    else:
        console.note("none of its host keys was in our list; those in OpenSSH's files stay")


def show_cleaned(console: Console, device: str, removed: Mapping[str, int]) -> None:
    """What was removed from a board."""
    for folder, size in removed.items():
        console.good(f"{folder} on {device} is removed: {size / 1e6:.1f} MB")
    if not removed:
        console.say(f"nothing was kept on {device}")


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
    asked = not any(check.state == "failed" and check.name in _BEFORE for check in examined.checks)
    nameless = "a system that does not say what it is" if asked else "not connected"
    console.say(f"{examined.device}: {examined.model or nameless}", style="bold")
    words = {"ok": "ok", "failed": "FAILED", "unknown": "unknown"}
    rows = [(check.name, words[check.state], check.found, check.fix) for check in examined.checks]
    console.table(["check", "", "found", "what to do"], rows, align="nnll")
    if not examined.ok:
        console.bad("nothing runs there before what failed is put right")
