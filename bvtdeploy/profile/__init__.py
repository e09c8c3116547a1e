"""Timing a model on a device: measuring protocol, statistics, environment record."""

from bvtdeploy.profile.measure import OpTime, Profile, Timing, profile_model

__all__ = ["OpTime", "Profile", "Timing", "profile_model"]
