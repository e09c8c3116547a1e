"""Stand-ins for boards, so that tests meet a real SSH server on a real (emulated) ARM system.

`simulated`: an ARM userland (busybox, dropbear) run by user-mode QEMU in namespaces of its own; starts in half a second. Its kernel
is this machine's, what /proc and /sys say is test data that a test may change while it runs.
`machine`: a whole emulated machine that boots its own kernel, with the device tree of a Raspberry Pi 4; starts in ten seconds.
Neither says anything about a board's speed.
"""
