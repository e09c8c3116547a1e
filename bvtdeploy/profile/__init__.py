"""Timing a model on a device: measuring protocol, statistics, environment record, reports, comparison."""

from bvtdeploy.profile.grid import profile_devices
from bvtdeploy.profile.measure import profile_model
from bvtdeploy.profile.result import Failed, OpTime, Profile, Profiles, Timing

__all__ = ["Failed", "OpTime", "Profile", "Profiles", "Timing", "profile_devices", "profile_model"]
