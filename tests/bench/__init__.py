"""Figures, not tests: what tcpmon costs here, beside a naive bcc script. `python -m tests.bench -h`."""
