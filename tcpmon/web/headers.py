"""A request's headers, and what is read out of them."""

from __future__ import annotations

import email.message
import http.client
import re


class RequestHeaders(http.client.HTTPMessage):
    """Of a request, which is no mail: what its Content-Type says is not for the parser to follow."""

    def get_content_type(self) -> str:
        return "text/plain"


def elements(headers: email.message.Message, name: str) -> list[str]:
    """The elements of a comma-separated header, all its lines taken together, in lower case."""
    return [element.strip().lower() for line in headers.get_all(name, []) for element in str(line).split(",")]


_CODING = re.compile(r"([^\s;]+)\s*(?:;\s*q\s*=\s*([\d.]+))?")


def accepts_gzip(headers: email.message.Message) -> bool:
    """Whether Accept-Encoding names gzip (or `*`) with a weight other than 0."""
    codings = filter(None, map(_CODING.match, elements(headers, "Accept-Encoding")))
    weights = {coding[1]: coding[2] or "1" for coding in codings}
    return bool(weights.get("gzip", weights.get("*", "0")).strip("0."))  # "0", "0.0", "0.000"
