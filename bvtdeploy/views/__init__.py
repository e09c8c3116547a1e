"""What each command's result looks like as text. `Console` knows how to print; here is what is printed, and in which order."""

from __future__ import annotations

from bvtdeploy.views.benches import show_bench, show_kernels, show_tuning
from bvtdeploy.views.catalogue import show_exported, show_models
from bvtdeploy.views.classes import show_demo, show_demo_end, show_run
from bvtdeploy.views.comparisons import show_comparison
from bvtdeploy.views.compiled import show_compile, show_inspect
from bvtdeploy.views.devices import show_added, show_cleaned, show_device, show_devices, show_examined, show_removed
from bvtdeploy.views.profiles import show_profile, show_profiles
from bvtdeploy.views.targets import show_board, show_boards, show_build, show_doctor
from bvtdeploy.views.verified import show_checked, show_failures, show_forced, show_verify

__all__ = [
    "show_added",
    "show_bench",
    "show_board",
    "show_boards",
    "show_build",
    "show_checked",
    "show_cleaned",
    "show_comparison",
    "show_compile",
    "show_demo",
    "show_demo_end",
    "show_device",
    "show_devices",
    "show_doctor",
    "show_examined",
    "show_exported",
    "show_failures",
    "show_forced",
    "show_inspect",
    "show_kernels",
    "show_models",
    "show_profile",
    "show_profiles",
    "show_removed",
    "show_run",
    "show_tuning",
    "show_verify",
]
