"""tcpmon: every TCP connection of a Linux host, counted in the kernel, served to Prometheus."""

__version__ = "0.1.0"
