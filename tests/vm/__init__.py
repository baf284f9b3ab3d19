"""The tests on other kernels: Debian's, booted under QEMU with systemd as PID 1. See README.md."""
