"""A name server that knows one name."""

import socket
import struct
import threading

ADDRESS = "127.0.53.1"


class Names(threading.Thread):
    """Answers on port 53 of an address of this machine: `name` is at 127.0.0.1, and nothing else is anywhere."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.name = name
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((ADDRESS, 53))
        self.asked = set()
        self.start()

    def run(self):
        while True:
            try:
                packet, peer = self.socket.recvfrom(512)
            except OSError:
                return
            self.socket.sendto(self.answer(packet), peer)

    def answer(self, packet):
        """RFC 1035, section 4: the question, and an answer that points at the question's name."""
        labels, at = [], 12
        while length := packet[at]:
            labels.append(packet[at + 1 : at + 1 + length].decode())
            at += 1 + length
        question, kind = packet[12 : at + 5], int.from_bytes(packet[at + 1 : at + 3])
        name = ".".join(labels).lower()
        self.asked.add(name)
        known = name == self.name and kind == 1
        head = packet[:2] + struct.pack(">HHHHH", 0x8180 if name == self.name else 0x8183, 1, known, 0, 0)
        return head + question + (struct.pack(">HHHIH4B", 0xC00C, 1, 1, 60, 4, 127, 0, 0, 1) if known else b"")

    def close(self):
        self.socket.close()
