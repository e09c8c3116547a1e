"""Several devices in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from bvtdeploy.device import Device, LocalDevice, SshDevice
from bvtdeploy.device.ssh.address import Target
from bvtdeploy.errors import UserError
from bvtdeploy.profile.result import Failed, Profile, Profiles


def profile_devices(devices: Sequence[tuple[str, Callable[[], Device]]], profile: Callable[[Device], Profile]) -> Profiles:
    """Profile several devices; one that fails does not take the others with it.

    They are opened one after the other, so that two questions for a password do not meet. Then those that are machines of their own
    run at the same time, and those on this machine one after the other: together they would take each other's cores.

    Who opens a device waits until nobody else measures on it, and holds those that are open already. So they are opened in the
    order of their addresses, whatever the order of the names: two who want the same boards do not wait for each other.

    Args:
        devices: names, and what makes the device; both that and opening it may raise UserError.
        profile: what to do with an open one.

    Returns:
        The profiles and the failures, each in the order of `devices`.
    """
    results: dict[int, Profile | Failed] = {}
    made: dict[int, Device] = {}
    opened: dict[int, Device] = {}
    futures: dict[int, Future[Profile]] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, len(devices)), thread_name_prefix="profile")
    try:
        for i, (name, make) in enumerate(devices):
            try:
                made[i] = make()
            except UserError as error:
                results[i] = Failed(name, error)
        taken: dict[tuple[str, ...], str] = {}
        for i in sorted(made, key=lambda i: place(made[i])):
            try:
                if isinstance(made[i], SshDevice) and (same := taken.setdefault(place(made[i]), devices[i][0])) != devices[i][0]:
                    raise UserError(  # it would wait for itself
                        f"{devices[i][0]} and {same} are one machine", where=made[i].name, fix="give it once"
                    )
                opened[i] = made[i]  # also where opening it is interrupted
                made[i].open()
                _ = made[i].build  # two compilers at once gain nothing
            except UserError as error:
                results[i] = Failed(devices[i][0], error)
        ready = {i: made[i] for i in made if i not in results}
        here = [i for i, device in ready.items() if isinstance(device, LocalDevice)]
        futures = {i: pool.submit(profile, device) for i, device in ready.items() if i not in here}
        for i in here:
            try:
                results[i] = profile(ready[i])
            except UserError as error:
                results[i] = Failed(devices[i][0], error)
        for i, future in futures.items():
            try:
                results[i] = future.result()
            except UserError as error:
                results[i] = Failed(devices[i][0], error)
    finally:
        # After an interrupt the threads still wait for their boards: a device that is cleaned ends what runs on it. A thread may
        # just then be connecting again, so what the threads leave is cleaned once they have ended.
        with contextlib.ExitStack() as stack:
            stack.callback(_clean, opened.values())
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            stack.callback(_clean, opened.values())
    inorder = [results[i] for i in sorted(results)]
    return Profiles(
        tuple(r for r in inorder if isinstance(r, Profile)), tuple(r for r in inorder if isinstance(r, Failed))
    )  # fmt: skip


def place(device: Device) -> tuple[str, ...]:
    """What devices are ordered by: where they are, however they were named."""
    if not isinstance(device, SshDevice):
        return ("", device.name)
    way: list[str] = []
    hop: Target | None = device.target
    while hop is not None:
        way += [hop.host, f"{hop.port:05}", hop.proxy_command or ""]
        hop = hop.jump
    return ("ssh", *way)


def _clean(devices: Iterable[Device]) -> None:
    """All of them, also where one fails."""
    with contextlib.ExitStack() as stack:
        for device in devices:
            stack.callback(device.clean)
