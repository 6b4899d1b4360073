"""Facts that schemathesis cannot know by itself: lines of JSON, and streams that have no end.

A stream is judged by its head and by what came before a moment's silence; schemathesis itself ends an event stream at twenty events.
"""

import json

import requests.adapters
import schemathesis
from hypothesis import strategies
from requests.exceptions import ReadTimeout
from urllib3.exceptions import ReadTimeoutError

NDJSON = "application/x-ndjson"
ENDLESS = (NDJSON, "text/event-stream")
# Silence that ends a stream, in seconds.
QUIET = 0.2

ask = requests.adapters.HTTPAdapter.send


def send(self, request, **kwargs):
    answer = ask(self, request, **kwargs)
    kind = answer.headers.get("Content-Type", "").split(";")[0]
    if kind in ENDLESS and request.method == "GET":
        answer.raw.connection.sock.settimeout(QUIET)
        if kind == NDJSON:
            answer._content, answer._content_consumed = whole_lines(answer), True
    return answer


def whole_lines(answer):
    text = b""
    try:
        while chunk := answer.raw.read1(1 << 16):
            text += chunk
    except (ReadTimeout, ReadTimeoutError):
        text = text[: text.rfind(b"\n") + 1]
    answer.close()
    return text


requests.adapters.HTTPAdapter.send = send


@schemathesis.serializer(NDJSON)
def serialize(_context, value):
    if isinstance(value, bytes):
        return value
    return (json.dumps(value) + "\n").encode()


@schemathesis.deserializer(*ENDLESS)
def deserialize(_context, answer):
    return answer.content.decode()


# Names of accounts and passwords: PRECIS has no regular expression.
schemathesis.openapi.format("username", strategies.from_regex(r"[a-z0-9]([a-z0-9._@-]{0,40}[a-z0-9])?", fullmatch=True))
schemathesis.openapi.format("opaque-string", strategies.from_regex(r"[!-~]([ -~]{4,60})[!-~]", fullmatch=True))
