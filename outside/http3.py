"""HTTP/3 and WebTransport as aioquic speaks them, with one exchange to a stream and a limit to every wait."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aioquic.asyncio.client import connect as connect_quic
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import FrameType, H3Connection
from aioquic.h3.events import DataReceived, DatagramReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset

# Longest wait for anything a server is to do, in seconds.
LIMIT = 20


class Ended(Exception):
    """The stream was reset, or the connection ended: the code, and the reason of a connection."""

    def __init__(self, code, reason=""):
        super().__init__(f"{code:#x} {reason}")
        self.code = code


@dataclass
class Answer:
    """A whole answer."""

    status: int
    headers: dict
    body: bytes = b""
    trailers: dict = field(default_factory=dict)

    def json(self):
        return json.loads(self.body)


class Framing(H3Connection):
    """Notes a GOAWAY, which aioquic checks and then skips; and knows that an answer to HEAD has a length, but no body."""

    going, heads = None, None

    def _check_content_length(self, stream):
        if stream.stream_id not in self.heads:
            super()._check_content_length(stream)

    def _check_control_frame_type(self, frame_type):
        super()._check_control_frame_type(frame_type)
        if frame_type == FrameType.GOAWAY:
            self.going.set()


class Client(QuicConnectionProtocol):
    """A connection."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.http = Framing(self._quic, enable_webtransport=True)
        self.http.going, self.http.heads = asyncio.Event(), set()
        self.exchanges, self.raw, self.incoming = {}, {}, asyncio.Queue()
        self.datagrams, self.ended = asyncio.Queue(), asyncio.Event()

    def quic_event_received(self, event):
        if isinstance(event, ConnectionTerminated):
            self.ended.set()
            for stream in [*self.exchanges.values(), *self.raw.values()]:
                stream.put(Ended(event.error_code, event.reason_phrase))
        elif isinstance(event, (StreamReset, StopSendingReceived)):
            stream = self.exchanges.get(event.stream_id) or self.raw.get(event.stream_id)
            # A server may stop reading a request that it answers nevertheless (RFC 9114, section 4.1).
            if stream and isinstance(event, StreamReset):
                stream.put(Ended(event.error_code))
        if isinstance(event, StreamDataReceived) and event.stream_id in self.raw:
            self.raw[event.stream_id].take(event.data, event.end_stream)
            return
        for heard in self.http.handle_event(event):
            self._heard(heard)

    def _heard(self, event):
        if isinstance(event, DatagramReceived):
            self.datagrams.put_nowait(event.data)
        elif isinstance(event, WebTransportStreamDataReceived):
            # One that the server opened.
            if event.stream_id not in self.raw:
                self.raw[event.stream_id] = Lines(self, event.stream_id)
                self.incoming.put_nowait(self.raw[event.stream_id])
            self.raw[event.stream_id].take(event.data, event.stream_ended)
        elif isinstance(event, (HeadersReceived, DataReceived)) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].put(event)

    def begin(self, method, path, headers=(), end=True):
        """Sends a head."""
        head = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path), *headers]
        return self.send(head, end)

    def send(self, head, end=True):
        """Sends a head of exactly these fields, fitting or not."""
        exchange = Exchange(self, self._quic.get_next_available_stream_id())
        self.exchanges[exchange.id] = exchange
        if (":method", "HEAD") in head:
            self.http.heads.add(exchange.id)
        self.http.send_headers(exchange.id, [(name.encode(), value.encode()) for name, value in head], end)
        self.transmit()
        return exchange

    async def ask(self, method, path, token=None, body=None, kind="application/json", headers=()):
        """A whole request, and its whole answer."""
        headers = list(headers)
        if token:
            headers.append(("authorization", f"Bearer {token}"))
        if body is None:
            return await self.begin(method, path, headers).answer()
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        exchange = self.begin(method, path, [*headers, ("content-type", kind)], end=False)
        exchange.write(body, end=True)
        return await exchange.answer()


class Stream:
    """The events of one stream."""

    def __init__(self, client, number):
        self.client, self.id, self.events = client, number, asyncio.Queue()

    def put(self, event):
        self.events.put_nowait(event)

    async def next(self):
        event = await asyncio.wait_for(self.events.get(), LIMIT)
        if isinstance(event, Ended):
            raise event
        return event

    def reset(self, code=0x10C):
        """Gives up (H3_REQUEST_CANCELLED)."""
        self.client._quic.reset_stream(self.id, code)
        self.client._quic.stop_stream(self.id, code)
        self.client.transmit()


class Exchange(Stream):
    """A request and its answer."""

    def write(self, data, end=False):
        self.client.http.send_data(self.id, data, end)
        self.client.transmit()

    def trailers(self, fields):
        """Ends the request."""
        self.client.http.send_headers(self.id, [(name.encode(), value.encode()) for name, value in fields], True)
        self.client.transmit()

    async def head(self):
        """The answer without its body."""
        event = await self.next()
        headers = {name.decode(): value.decode() for name, value in event.headers}
        self.done = event.stream_ended
        return Answer(int(headers.pop(":status")), headers)

    async def chunk(self):
        """The next of the body; `None` at its end."""
        while not self.done:
            event = await self.next()
            self.done = event.stream_ended
            if isinstance(event, HeadersReceived):
                self.ending = {name.decode(): value.decode() for name, value in event.headers}
            elif event.data:
                return event.data
        return None

    async def answer(self):
        """The whole answer."""
        self.ending = {}
        answer = await self.head()
        while (chunk := await self.chunk()) is not None:
            answer.body += chunk
        answer.trailers = self.ending
        return answer

    async def blocks(self, end=b"\n\n"):
        """The blocks of an event stream, or the lines of another."""
        left = b""
        while (chunk := await self.chunk()) is not None:
            *whole, left = (left + chunk).split(end)
            for block in whole:
                yield block.decode()


class Lines(Stream):
    """A stream of a WebTransport session: lines of JSON."""

    left = b""

    def take(self, data, end):
        *whole, self.left = (self.left + data).split(b"\n")
        for line in whole:
            self.put(json.loads(line))
        if end:
            self.put(None)

    def say(self, *messages, end=False):
        text = "".join(json.dumps(message) + "\n" for message in messages)
        self.client._quic.send_stream_data(self.id, text.encode(), end)
        self.client.transmit()


class Session:
    """A WebTransport session with its control stream."""

    def __init__(self, client, connect):
        self.client, self.connect = client, connect
        self.control = self._open(False)

    def _open(self, unidirectional):
        number = self.client.http.create_webtransport_stream(self.connect.id, unidirectional)
        lines = self.client.raw[number] = Lines(self.client, number)
        return lines

    def upload(self):
        """A stream for records."""
        return self._open(True)

    def datagram(self, message):
        self.client.http.send_datagram(self.connect.id, json.dumps(message).encode())
        self.client.transmit()

    async def closed(self):
        """The code and the reason that the server closes it with (draft-ietf-webtrans-http3, section 6)."""
        text = b""
        while (chunk := await self.connect.chunk()) is not None:
            text += chunk
        # Type 0x2843 in two bytes, a length below 64 or below 16384, a code in four.
        length = 3 if text[2] < 64 else 4
        return int.from_bytes(text[length : length + 4], "big"), text[length + 4 :].decode()


async def session(client, origin=None):
    """Opens a session at `/wt`; the answer where it is refused."""
    headers = [(":protocol", "webtransport"), ("sec-webtransport-http3-draft02", "1"), *((("origin", origin),) if origin else ())]
    head = [(":method", "CONNECT"), (":scheme", "https"), (":authority", client.authority), (":path", "/wt")]
    exchange = client.send([*head, *headers], end=False)
    answer = await exchange.head()
    return Session(client, exchange) if answer.status == 200 else answer


@asynccontextmanager
async def connect(node):
    """A connection to a node's QUIC port, with the node's own CA as the only one that is trusted."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["h3"], max_datagram_frame_size=65536, server_name="localhost")
    configuration.load_verify_locations(node.at["ca"])
    host, port = node.at["quic"].rsplit(":", 1)
    async with connect_quic(host, int(port), configuration=configuration, create_protocol=Client) as client:
        client.authority = f"localhost:{port}"
        yield client
