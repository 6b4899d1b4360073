"""The tunnel of motience/1: the same frames in binary messages of a WebSocket (RFC 6455), written from docs/protocol.md alone."""

import asyncio
import os
from base64 import b64encode
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from motience1 import CONTROL_LIMIT, LIMIT, VERSION, Closed, Stream
from motience1_bytes import encode

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Tunnel:
    """One tunnel of a device."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.control = reader, writer, Stream(CONTROL_LIMIT, opened=True)

    def message(self, data, kind=BINARY):
        """Sends a message. A client masks its own; a mask of zeros leaves the bytes as they are."""
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big") if size < 65536 else b"\xff" + size.to_bytes(8, "big")
        self.writer.write(bytes([0x80 | kind]) + length + bytes(4) + data)

    def say(self, name, **fields):
        self.message(encode(name, **fields))

    async def hello(self, token, device_id, producer_epoch, features=0, behind=b""):
        """Says who comes, with frames behind it in the same message; the Welcome."""
        fields = {"token": token, "device_id": device_id, "producer_epoch": producer_epoch, "features": features}
        self.message(encode("Hello", version=VERSION, intent="produce", **fields) + behind)
        return await self.control.expect("Welcome")

    async def listen(self):
        """Reads messages until the node closes."""
        while True:
            kind, size = await self.reader.readexactly(2)
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            data = await self.reader.readexactly(size)
            match kind & 0x0F:
                case 2:
                    self.control.take(data, False)
                    assert not self.control.buffer, "a message ends within a frame"
                case 9:
                    self.message(data, PONG)
                case 8:
                    self.message(data[:2], CLOSE)
                    return Closed(int.from_bytes(data[:2], "big"), data[2:].decode())

    async def closed(self):
        return await self.control.closed()

    async def leave(self):
        self.message((1000).to_bytes(2, "big"), CLOSE)
        return await self.closed()


@asynccontextmanager
async def tunnel(url, trust=None):
    """A tunnel to ws://HOST:PORT/motience, or to wss:// where a TLS context says whom it trusts."""
    at = urlsplit(url)
    reader, writer = await asyncio.wait_for(asyncio.open_connection(at.hostname, at.port, ssl=trust), LIMIT)
    head = [f"GET {at.path} HTTP/1.1", f"Host: {at.netloc}", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    head += [f"Sec-WebSocket-Key: {b64encode(os.urandom(16)).decode()}", "Sec-WebSocket-Protocol: motience.1"]
    writer.write("\r\n".join([*head, "", ""]).encode())
    answer = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT)).decode().lower()
    assert answer.startswith("http/1.1 101") and "sec-websocket-protocol: motience.1" in answer, answer
    opened = Tunnel(reader, writer)
    listening = asyncio.ensure_future(opened.listen())
    listening.add_done_callback(lambda done: opened.control.frames.put_nowait(done.exception() or done.result()) if not done.cancelled() else None)
    try:
        yield opened
    finally:
        listening.cancel()
        writer.close()
