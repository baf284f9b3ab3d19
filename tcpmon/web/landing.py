"""The landing page: what this is and where to go, in one self-contained page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from tcpmon import __version__
from tcpmon.web.handler import Response

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --paper: #fbfbf9; --quiet: #5b6675; --link: #0b57c2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --paper: #14181f; --quiet: #98a3b3; --link: #86b7ff; }
}
body { max-width: 40rem; margin: 4rem auto; padding: 0 1.25rem; font: 1rem/1.6 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); }
h1 { margin: 0; font-size: 1.75rem; }
p, dd { color: var(--quiet); }
dt { margin-top: 1rem; font-family: ui-monospace, monospace; }
dd { margin: 0; }
a { color: var(--link); }
"""

_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>tcpmon</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>tcpmon</h1>
<p>Version {__version__}. Every TCP connection of this host, counted in the kernel.</p>
<dl>
<dt><a href="/metrics">/metrics</a></dt>
<dd>the counts, for Prometheus</dd>
<dt><a href="/-/healthy">/-/healthy</a></dt>
<dd>200 while the daemon runs</dd>
<dt><a href="/-/ready">/-/ready</a></dt>
<dd>200 once it counts</dd>
</dl>
</main>
</body>
</html>
""".encode()

# Nothing may be loaded, run, framed or submitted; of styles, only the one above.
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


def landing_page(_: Mapping[str, str]) -> Response:
    """The Route of `/`."""
    return Response(200, "text/html; charset=utf-8", [_PAGE], _HEADERS)
