"""The command `devices`: boards by name."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bvtdeploy import api, views
from bvtdeploy.cli.options import Group, json_option
from bvtdeploy.cli.root import cli
from bvtdeploy.console import Console


@cli.group("devices", cls=Group, invoke_without_command=True)
@json_option
def devices_command(as_json: bool) -> int:
    """List the boards that have a name here; `add` names one, `doctor` looks at one."""
    context = click.get_current_context()
    return 0 if context is not None and context.invoked_subcommand is not None else _list(as_json)


def _console(as_json: bool) -> Console:
    """`--json` may stand before the subcommand's name, too."""
    context = click.get_current_context()
    above = context.parent if context is not None else None
    return Console(as_json or bool(above is not None and above.params.get("as_json")))


def _list(as_json: bool) -> int:
    console = _console(as_json)
    known = api.devices()
    views.show_devices(console, known)
    console.result({"devices": [entry.as_dict() for entry in known]})
    return 0


@devices_command.command("list")
@json_option
def devices_list_command(as_json: bool) -> int:
    """List the named devices."""
    return _list(as_json)


@devices_command.command("add")
@click.argument("name")
@click.argument("address", metavar="USER@HOST[:PORT]")
@click.option("--yes", is_flag=True, help="Record an unknown host key without asking. Only in a network that you trust.")
@click.option("--fingerprint", metavar="SHA256:...", help="Record the host key only if it has this fingerprint.")
@click.option("--board", metavar="BOARD", help="Name or TOML file of the board; default: recognised.")
@click.option("--folder", metavar="DIR", help="Folder on the device for what is pushed; default: the user's cache folder.")
@json_option
def devices_add_command(as_json: bool, **options: Any) -> int:
    """Name a board that is reached over SSH: confirm and record its host key, recognise what it is.

    USER@HOST may be a Host of your SSH configuration.
    """
    console = _console(as_json)
    with console.progress() as progress:
        added = api.add_device(progress=progress, **options)
    views.show_added(console, added)
    console.result(added.as_dict(), ok=added.problem is None)
    return 0 if added.problem is None else 1


@devices_command.command("show")
@click.argument("name")
@json_option
def devices_show_command(name: str, as_json: bool) -> int:
    """Show what is known of a device without asking it: address, hops, keys."""
    console = _console(as_json)
    described = api.describe_device(name)
    views.show_device(console, described)
    console.result(described)
    return 0


@devices_command.command("remove")
@click.argument("name")
@json_option
def devices_remove_command(name: str, as_json: bool) -> int:
    """Forget a device, and its host key where no other device has the same address."""
    console = _console(as_json)
    removed = api.remove_device(name)
    views.show_removed(console, removed)
    console.result(removed.as_dict())
    return 0


@devices_command.command("clean")
@click.argument("device")
@json_option
def devices_clean_command(device: str, as_json: bool) -> int:
    """Remove from a board what --keep left there. DEVICE is what --device takes."""
    console = _console(as_json)
    with console.progress() as progress:
        removed = api.clean_device(device, progress=progress)
    views.show_cleaned(console, device, removed)
    console.result({"cleaned": device, "removed": [{"folder": folder, "bytes": size} for folder, size in removed.items()]})
    return 0


@devices_command.command("doctor")
@click.argument("device")
@json_option
def devices_doctor_command(device: str, as_json: bool) -> int:
    """Look at everything that a run on a device needs, and say what to do about what fails. DEVICE is what --device takes."""
    console = _console(as_json)
    with console.progress() as progress:
        examined = api.examine_device(device, progress=progress)
    views.show_examined(console, examined)
    console.result(examined.as_dict(), ok=examined.ok)
    return 0 if examined.ok else 1
