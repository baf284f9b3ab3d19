"""`python -m tcpmon`."""

from tcpmon.cli import main

main()
