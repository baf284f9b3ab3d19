"""The interactive tools. Here only their names, so that naming them in the help costs nothing."""

TOOLS = {
    "tcptracer": "prints connections as they are established and closed",
    "tcpaccept": "prints connections as they are accepted",
    "tcpconnect": "prints connections as they are attempted",
}
