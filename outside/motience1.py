"""A client of motience/1 over aioquic, written from docs/protocol.md alone."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aioquic.asyncio.client import connect as connect_quic
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived, StreamReset
from motience1_bytes import DELIVERY, INDEPENDENT, ORDERED, Broken, checked, decode, encode, peek, varint

ALPN, VERSION = "motience/1", 1
COMPACT, LATEST, SELECTION, ORDER, CAUSES = 1, 2, 4, 8, 32
DONE, PROTOCOL, UNAUTHENTICATED, FORBIDDEN, FENCED, TOO_LARGE, RATE_LIMITED, DRAINING, INTERNAL = range(9)
# The limits of a body on the control stream, and of what stands around a record elsewhere, in bytes.
CONTROL_LIMIT, AROUND = 64 * 1024, 1024
# Longest wait for anything a node is to do, and the time between two signs of life, in seconds.
LIMIT, KEEP_ALIVE = 20, 15


class Closed(Exception):
    """The connection ended: with a close code of the node, or `None`."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")
        self.code, self.reason = code, reason


@dataclass
class Stream:
    """The frames of one stream: bytes in, frames out."""

    limit: int
    buffer: bytearray = field(default_factory=bytearray)
    frames: asyncio.Queue = field(default_factory=asyncio.Queue)
    # The control stream has no kind.
    opened: bool = False

    def take(self, data, end):
        self.buffer += data
        if not self.opened and (kind := peek(self.buffer)):
            if kind[0] != DELIVERY:
                raise Broken("unknown_stream")
            del self.buffer[: kind[1]]
            self.opened = True
        while self.opened and (frame := decode(self.buffer, self.limit)):
            self.frames.put_nowait(frame)
        if end:
            checked(not self.buffer, None)
            self.frames.put_nowait(None)

    async def next(self):
        """The next frame; `None` at the stream's end; `Closed` at the connection's."""
        frame = await asyncio.wait_for(self.frames.get(), LIMIT)
        if isinstance(frame, Closed):
            # For whoever asks again.
            self.frames.put_nowait(frame)
            raise frame
        return frame

    async def closed(self):
        """The node's close code, once everything before it is read."""
        while True:
            try:
                await self.next()
            except Closed as closed:
                return closed.code

    async def expect(self, name):
        """The fields of the next frame, which has to be of this name."""
        frame = await self.next()
        assert frame and frame[0] == name, f"{frame} instead of {name}"
        return frame[1]


class Connection(QuicConnectionProtocol):
    """One connection of a device or a consumer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.control, self.streams, self.deliveries = Stream(CONTROL_LIMIT, opened=True), {}, asyncio.Queue()
        self.ended, self.line = asyncio.Event(), None
        # Where the node opens a stream before its Welcome is read.
        self.max_record = 64 * 1024

    def quic_event_received(self, event):
        try:
            match event:
                case StreamDataReceived():
                    self._stream(event.stream_id).take(event.data, event.end_stream)
                case StreamReset():
                    self._stream(event.stream_id).frames.put_nowait(None)
                case ConnectionTerminated():
                    # A frame type says that it was QUIC's own doing, and no close code.
                    closed = Closed(event.error_code if event.frame_type is None else None, event.reason_phrase)
                    self.ended.set()
                    for stream in [self.control, *self.streams.values()]:
                        stream.frames.put_nowait(closed)
        except Broken as broken:
            self._quic.close(TOO_LARGE if broken.error == "too_large" else PROTOCOL, reason_phrase=broken.error)
            self.transmit()

    def _stream(self, number):
        if number == 0:
            return self.control
        if number not in self.streams:
            self.streams[number] = Stream(self.max_record + AROUND)
            self.deliveries.put_nowait(self.streams[number])
        return self.streams[number]

    def _write(self, stream, data, end=False):
        self._quic.send_stream_data(stream, data, end)
        self.transmit()

    def say(self, name, **fields):
        """Sends a frame on the control stream, which is the client's first."""
        self._write(0, encode(name, **fields))

    async def hello(self, intent, token, device_id, producer_epoch=0, features=0):
        """Says who comes and for what; the Welcome."""
        assert self._quic.get_next_available_stream_id() == 0
        epoch = {"producer_epoch": producer_epoch, "features": features}
        self.say("Hello", version=VERSION, intent=intent, token=token, device_id=device_id, **epoch)
        welcome = await self.control.expect("Welcome")
        self.max_record = welcome["max_record"]
        return welcome

    def ordered(self, *frames):
        """Sends frames on the one stream whose order is kept."""
        head = b"" if self.line is not None else varint(ORDERED)
        if self.line is None:
            self.line = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._write(self.line, head + b"".join(frames))

    def independent(self, *frames):
        """Sends frames on a stream of their own."""
        stream = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self._write(stream, varint(INDEPENDENT) + b"".join(frames), end=True)

    def latest(self, frame):
        """Sends a frame in a datagram."""
        self._quic.send_datagram_frame(frame)
        self.transmit()

    async def delivery(self):
        """The next delivery stream that the node opens."""
        return await asyncio.wait_for(self.deliveries.get(), LIMIT)

    async def closed(self):
        return await self.control.closed()

    async def leave(self):
        """Closes: all is done."""
        self._quic.close(DONE)
        self.transmit()
        await asyncio.wait_for(self.ended.wait(), LIMIT)

    async def keep_alive(self):
        while True:
            await asyncio.sleep(KEEP_ALIVE)
            await self.ping()


@asynccontextmanager
async def connect(address, ca, name="localhost", ticket=None, keep=None):
    """A connection to HOST:PORT whose certificate this CA has signed for this name.

    With a session ticket it may be written to before its handshake has ended; `keep` is given those of this connection."""
    # aioquic sends datagrams only where it takes some.
    settings = {"alpn_protocols": [ALPN], "server_name": name, "idle_timeout": 60, "max_datagram_frame_size": 65535}
    configuration = QuicConfiguration(is_client=True, session_ticket=ticket, **settings)
    configuration.load_verify_locations(ca)
    host, port = address.rsplit(":", 1)
    how = {"create_protocol": Connection, "session_ticket_handler": keep, "wait_connected": ticket is None}
    async with connect_quic(host, int(port), configuration=configuration, **how) as connection:
        alive = asyncio.ensure_future(connection.keep_alive())
        try:
            yield connection
        finally:
            alive.cancel()
