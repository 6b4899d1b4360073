"""Stands between Autobahn's cases and a socket that answers instead of echoing.

The cases judge a server by the echo of what they send. Ours give no message back, but answer each one: wss1 with an
acknowledgement or an error, wss2 (motience.v2) with an error. So every byte of the case goes to the server exactly as the
case wrote it, cut where the case cut it; the server's control frames, closes and disconnects go back exactly as they are;
and each answer, once it is found to be the documented one, is replaced by the message it answers. An echo that a case sees
therefore proves that the server has taken in the whole message at that place in its order. An answer to nothing, or a wrong one,
goes back as it is and fails the case.
"""

import asyncio
import json
import struct
from collections import deque
from urllib.parse import urlsplit

TEXT, BINARY, CONTINUATION, CLOSE = 1, 2, 0, 8
READ = 1 << 16
# Time for connections to end once the cases are over, in seconds.
END_LIMIT = 5


class Frames:
    """Takes a stream of WebSocket frames (RFC 6455, section 5.2) apart as it arrives."""

    def __init__(self):
        self.buffer = bytearray()

    def feed(self, data):
        """Yields (first byte, payload, raw bytes) of each frame that is whole."""
        self.buffer += data
        while (end := self._end()) is not None:
            head, masked, start = end[0], end[1], end[2]
            raw = bytes(self.buffer[: end[3]])
            del self.buffer[: end[3]]
            payload = raw[start:]
            if masked:
                key = raw[start - 4 : start]
                payload = xor(payload, key)
            yield head, payload, raw

    def _end(self):
        have = len(self.buffer)
        if have < 2:
            return None
        masked, length, start = self.buffer[1] & 0x80, self.buffer[1] & 0x7F, 2
        if length == 126:
            if have < 4:
                return None
            (length,), start = struct.unpack_from(">H", self.buffer, 2), 4
        elif length == 127:
            if have < 10:
                return None
            (length,), start = struct.unpack_from(">Q", self.buffer, 2), 10
        if masked:
            start += 4
        return (self.buffer[0], masked, start, start + length) if have >= start + length else None


def xor(payload, key):
    """Unmasks at the speed of big integers."""
    mask = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(len(payload), "big")


def frame(opcode, payload):
    """A whole message of a server in one frame."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", 0x80 | opcode, length)
    elif length < 1 << 16:
        head = struct.pack(">BBH", 0x80 | opcode, 126, length)
    else:
        head = struct.pack(">BBQ", 0x80 | opcode, 127, length)
    return head + payload


class Link:
    """One connection of a case."""

    def __init__(self, expected):
        self.expected = expected
        self.asked = deque()
        self.message = None

    def sent(self, head, payload):
        """Notes a frame of the case; what no endpoint may send is not noted, so that an answer to it fails the case."""
        opcode, final = head & 0x0F, head & 0x80
        if head & 0x70 or opcode > BINARY or (opcode == CONTINUATION) != (self.message is not None):
            return
        if opcode != CONTINUATION:
            self.message = (opcode, bytearray())
        self.message[1].extend(payload)
        if final:
            self.asked.append((self.message[0], bytes(self.message[1])))
            self.message = None

    def answered(self, head, payload, raw):
        """The frame that the case sees for a frame of the server."""
        if head & 0x0F != TEXT or not self.asked:
            return raw
        opcode, message = self.asked[0]
        if not self.expected(opcode, message, json.loads(payload)):
            return raw
        self.asked.popleft()
        return frame(opcode, message)


class Echo:
    """Listens for cases and connects each to `url`."""

    def __init__(self, url, expected):
        self.target, self.expected, self.links = urlsplit(url), expected, set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.url = self.target._replace(netloc=f"127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_):
        self.server.close()
        # The last of them have nothing left to do but to end.
        if self.links:
            await asyncio.wait(self.links, timeout=END_LIMIT)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self.links.add(task)
        task.add_done_callback(self.links.discard)
        up_reader, up_writer = await asyncio.open_connection(self.target.hostname, self.target.port)
        link = Link(self.expected)
        try:
            # The handshake is the server's own.
            up_writer.write(await reader.readuntil(b"\r\n\r\n"))
            writer.write(await up_reader.readuntil(b"\r\n\r\n"))
            await asyncio.gather(self._up(reader, up_writer, link), self._down(up_reader, writer, link))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            up_writer.close()
            writer.close()

    @staticmethod
    async def _up(reader, writer, link):
        frames = Frames()
        while data := await reader.read(READ):
            for head, payload, _ in frames.feed(data):
                link.sent(head, payload)
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    @staticmethod
    async def _down(reader, writer, link):
        frames = Frames()
        while data := await reader.read(READ):
            for head, payload, raw in frames.feed(data):
                writer.write(link.answered(head, payload, raw))
            await writer.drain()
        writer.close()
