"""Boards over SSH. Address and configuration, host keys, the connection, what runs on the device, and the device itself."""

from bvtdeploy.device.ssh.remote import SshDevice

__all__ = ["SshDevice"]
