"""Several devices in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from bvtdeploy.device import Device, LocalDevice
from bvtdeploy.errors import UserError
from bvtdeploy.profile.result import Failed, Profile, Profiles


def profile_devices(devices: Sequence[tuple[str, Callable[[], Device]]], profile: Callable[[Device], Profile]) -> Profiles:
    """Profile several devices; one that fails does not take the others with it.

    They are opened one after the other, so that two questions for a password do not meet. Then those that are machines of their own
    run at the same time, and those on this machine one after the other: together they would take each other's cores.

    Args:
        devices: names, and what makes the device; both that and opening it may raise UserError.
        profile: what to do with an open one.

    Returns:
        The profiles and the failures, each in the order of `devices`.
    """
    results: dict[int, Profile | Failed] = {}
    opened: dict[int, Device] = {}
    futures: dict[int, Future[Profile]] = {}
    pool = ThreadPoolExecutor(max_workers=max(1, len(devices)), thread_name_prefix="profile")
    try:
        for i, (name, make) in enumerate(devices):
            try:
                device = make()
                device.open()
                opened[i] = device
                _ = device.build  # two compilers at once gain nothing
            except UserError as error:
                results[i] = Failed(name, error)
        ready = {i: device for i, device in opened.items() if i not in results}
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
        # After an interrupt the threads still wait for their boards: a device that is cleaned ends what runs on it.
        for device in opened.values():
            device.clean()
        pool.shutdown(wait=True, cancel_futures=True)
    inorder = [results[i] for i in sorted(results)]
    return Profiles(
        tuple(r for r in inorder if isinstance(r, Profile)), tuple(r for r in inorder if isinstance(r, Failed))
    )  # fmt: skip
