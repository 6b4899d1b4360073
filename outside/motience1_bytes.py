"""The bytes of motience/1: varints, frames, templates. Written from docs/protocol.md alone."""

ORDERED, INDEPENDENT, DELIVERY = 1, 2, 3
KINDS = {ORDERED: "ordered", INDEPENDENT: "independent", DELIVERY: "delivery"}
LARGEST = (1 << 62) - 1
MAX_RANGES, MAX_TEMPLATES, MAX_SLOTS, MAX_LITERALS = 4096, 64, 256, 4096


class Broken(Exception):
    """Bytes that break the protocol; `error` is the name that vectors.json has for it."""

    def __init__(self, error):
        super().__init__(error)
        self.error = error


# ── Bytes


def varint(n):
    for size, bits in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if n < 1 << (8 * size - 2):
            return (n | bits << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{n} is over 2^62 - 1")


def peek(data, at=0):
    """The varint at a place and the place behind it; `None` where bytes are missing."""
    if at >= len(data) or at + (size := 1 << (data[at] >> 6)) > len(data):
        return None
    return int.from_bytes(data[at : at + size], "big") & (1 << (8 * size - 2)) - 1, at + size


class Reader:
    """A body, read from its front."""

    def __init__(self, data):
        self.data, self.at = bytes(data), 0

    def take(self, size):
        if self.at + size > len(self.data):
            raise Broken("truncated")
        self.at += size
        return self.data[self.at - size : self.at]

    def left(self):
        return len(self.data) - self.at

    def number(self):
        if (found := peek(self.data, self.at)) is None:
            raise Broken("truncated")
        number, self.at = found
        return number

    def text(self, limit):
        if (size := self.number()) > limit:
            raise Broken("too_long")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise Broken("malformed") from None


# ── Fields: how each is written, and how it is read


def checked(holds, value):
    if not holds:
        raise Broken("malformed")
    return value


def text(limit):
    return lambda value: varint(len(value.encode())) + value.encode(), lambda body: body.text(limit)


def put_ranges(ranges):
    out, end = varint(len(ranges)), 0
    for first, last in ranges:
        out += varint(first - end) + varint(last - first)
        end = last
    return out


def read_ranges(body):
    ranges, end = [], 0
    for n in range(checked((count := body.number()) <= MAX_RANGES, count)):
        gap, length = body.number(), body.number()
        first, end = end + gap, end + gap + length
        ranges.append(checked((n == 0 or gap >= 2) and end <= LARGEST, [first, end]))
    return ranges


def put_start(start):
    match start["kind"]:
        case "live":
            return b"\0"
        case "earliest":
            return b"\1"
        case "cursor":
            return b"\2" + CURSOR[0](start["cursor"])
        case "time":
            return b"\3" + varint(start["ms"])


def read_start(body):
    match body.take(1)[0]:
        case 0:
            return {"kind": "live"}
        case 1:
            return {"kind": "earliest"}
        case 2:
            return {"kind": "cursor", "cursor": CURSOR[1](body)}
        case 3:
            return {"kind": "time", "ms": body.number()}
    raise Broken("malformed")


def read_order(number):
    return checked(number <= 1, ("log", "device")[number & 1])


def put_parts(parts):
    out = varint(len(parts))
    for part in parts:
        out += TEXT[0](part["literal"])
        match slot := part["slot"]:
            case {"kind": "text"}:
                out += varint(0)
            case {"kind": "raw"}:
                out += varint(1)
            case {"kind": "number"}:
                out += varint(2) + varint(3 * slot["decimals"] + ZEROS.index(slot["zeros"]))
            case {"kind": "time"}:
                out += varint(3) + varint(slot["digits"]) + TEXT[0](slot["suffix"]) + slot["base"].to_bytes(8, "big", signed=True)
    return out


def read_parts(body):
    count = body.number()
    return [{"literal": body.text(MAX_LITERALS), "slot": read_slot(body)} for _ in range(checked(count <= MAX_SLOTS, count))]


def read_slot(body):
    match body.number():
        case 0:
            return {"kind": "text"}
        case 1:
            return {"kind": "raw"}
        case 2:
            decimals, zeros = divmod(body.number(), 3)
            return checked(decimals <= 15, {"kind": "number", "decimals": decimals, "zeros": ZEROS[zeros]})
        case 3:
            digits, suffix, base = body.number(), body.text(8), int.from_bytes(body.take(8), "big", signed=True)
            printable = all("!" <= c <= "~" and c not in '"\\' for c in suffix)
            return checked(digits <= 9 and printable, {"kind": "time", "digits": digits, "suffix": suffix, "base": base})
    raise Broken("malformed")


ZEROS = ("kept", "cut", "one")
CAUSES = ("retention", "damaged", "erased")
INTENTS = {"produce": b"\1", "consume": b"\2"}
NUMBER = varint, Reader.number
SEQ = varint, lambda body: checked((seq := body.number()) != 0, seq)
U64 = lambda value: value.to_bytes(8, "big"), lambda body: int.from_bytes(body.take(8), "big")
REST = bytes, lambda body: body.take(body.left())
RANGES = put_ranges, read_ranges
CURSOR = lambda c: U64[0](c["log_epoch"]) + varint(c["offset"]), lambda body: {"log_epoch": U64[1](body), "offset": body.number()}
INTENT = INTENTS.get, lambda body: {1: "produce", 2: "consume"}.get(body.take(1)[0]) or checked(False, None)
TEXT = text(MAX_LITERALS)
# Only there where it is not empty.
SELECTION_TEXT = lambda value: TEXT[0](value) if value else b"", lambda body: body.text(16384) if body.left() else ""
# Only there where it is not the log's.
ORDER = lambda order: b"\1" if order == "device" else b"", lambda body: read_order(body.number()) if body.left() else "log"
# Only there with its feature. One that is not known is none.
CAUSE = lambda cause: TEXT[0](cause) if cause else b"", lambda body: cause if body.left() and (cause := body.text(32)) in CAUSES else None
LOSS = lambda ppm: varint(0 if ppm is None else ppm + 1), lambda body: n - 1 if (n := body.number()) else None

PRODUCER = {"producer": NUMBER}
FRAMES = {
    0x01: ("Hello", {"version": NUMBER, "intent": INTENT, "token": text(4096), "device_id": text(1020), "producer_epoch": U64, "features": NUMBER}),
    0x03: (
        "Welcome",
        {"node": text(255), "fence": NUMBER, "dedup_window": RANGES, "max_record": NUMBER, "credit": NUMBER}
        | {"token_expires_in": NUMBER, "durability": text(32), "features": NUMBER},
    ),
    0x05: ("TokenRefresh", {"token": text(4096)}),
    0x07: ("TokenAccepted", {"expires_in": NUMBER}),
    0x09: ("Ack", {"ranges": RANGES}),
    0x0B: ("Refused", {"seq": NUMBER, "code": text(64), "message": text(512)}),
    0x0D: ("Subscribe", PRODUCER | {"start": (put_start, read_start), "cursor_name": text(64), "selection": SELECTION_TEXT, "order": ORDER}),
    0x0F: ("Unsubscribe", PRODUCER),
    0x11: ("Followed", PRODUCER | {"refusal": text(64)}),
    0x13: ("Gap", PRODUCER | {"from": NUMBER, "to": NUMBER, "cause": CAUSE}),
    0x15: ("Done", {}),
    0x17: ("Skipped", {"ranges": RANGES}),
    0x19: ("Confirm", PRODUCER | {"cursor": CURSOR}),
    0x1B: ("Template", {"template": NUMBER, "parts": (put_parts, read_parts), "tail": TEXT}),
    0x1D: ("TemplateAccepted", {"template": NUMBER}),
    0x21: ("Record", {"seq": SEQ, "json": REST}),
    0x23: ("Cursor", PRODUCER | {"cursor": CURSOR}),
    0x25: ("Entry", {"offset": NUMBER, "producer_epoch": U64, "seq": NUMBER, "message": REST}),
    0x27: ("Compact", {"seq": SEQ, "template": NUMBER, "values": REST}),
    0x02: ("Credit", {"records": NUMBER}),
    0x04: ("Drain", {}),
    0x06: ("Ping", {}),
    0x08: ("Pong", {}),
    0x0A: ("Health", {"backlog": NUMBER, "loss_ppm": LOSS}),
    0x0C: ("Subscriber", {"subscription": NUMBER, "consumer": NUMBER, "status": text(32)}),
}
TYPES = {name: number for number, (name, _) in FRAMES.items()}


def encode(name, **fields):
    """A frame's bytes."""
    if name == "Subscribe":
        fields = {"order": "log"} | fields
    parts = {key: put(fields[key]) for key, (put, _) in FRAMES[TYPES[name]][1].items()}
    if parts.get("order"):
        # An order has a selection before it, be it an empty one.
        parts["selection"] = parts["selection"] or TEXT[0]("")
    body = b"".join(parts.values())
    return varint(TYPES[name]) + varint(len(body)) + body


def decode(buffer, limit):
    """Takes the next known frame off the front of a bytearray: name and fields. `None`: more bytes are needed."""
    while True:
        kind = peek(buffer)
        length = kind and peek(buffer, kind[1])
        if not length:
            return None
        (number, _), (size, start) = kind, length
        if size > limit:
            raise Broken("too_large")
        if start + size > len(buffer):
            return None
        body = Reader(buffer[start : start + size])
        del buffer[: start + size]
        if number not in FRAMES:
            if number % 2:
                raise Broken("unknown_critical")
            continue
        name, fields = FRAMES[number]
        frame = name, {key: read(body) for key, (_, read) in fields.items()}
        checked(name == "Health" or not body.left(), None)
        if name == "Template":
            literals = [part["literal"] for part in frame[1]["parts"]] + [frame[1]["tail"]]
            checked(sum(len(literal.encode()) for literal in literals) <= MAX_LITERALS, None)
        return frame


# ── Templates


class Templates:
    """Those of one connection, as the side that restores records has them."""

    def __init__(self):
        self.known = {}

    def add(self, template):
        if template["template"] in self.known:
            raise Broken("announced_twice")
        if len(self.known) == MAX_TEMPLATES:
            raise Broken("too_many_templates")
        self.known[template["template"]] = template

    def restore(self, compact, limit):
        if (template := self.known.get(compact["template"])) is None:
            raise Broken("unknown_template")
        values, out = Reader(compact["values"]), b""
        try:
            for part in template["parts"]:
                out += part["literal"].encode() + read_value(part["slot"], values)
        except Broken:
            raise Broken("misfit") from None
        if values.left():
            raise Broken("misfit")
        if len(out := out + template["tail"].encode()) > limit:
            raise Broken("too_large")
        return out


def read_value(slot, values):
    if slot["kind"] in ("number", "time") and (n := values.number()):
        size, negative = divmod(n - 1, 2)
        return (number_text if slot["kind"] == "number" else time_text)(slot, size, negative).encode()
    return values.take(values.number())


def number_text(slot, size, negative):
    digits = str(size).rjust(slot["decimals"] + 1, "0")
    point = len(digits) - slot["decimals"]
    whole, fraction = digits[:point], digits[point:]
    if slot["zeros"] != "kept" and fraction:
        fraction = fraction.rstrip("0") or ("0" if slot["zeros"] == "one" else "")
    return "-" * negative + whole + ("." + fraction if fraction else "")


def time_text(slot, size, negative):
    seconds, fraction = divmod(slot["base"] + (-size if negative else size), 10 ** slot["digits"])
    days, second = divmod(seconds, 86400)
    year, month, day = civil(days)
    checked(0 <= year <= 9999, None)
    clock = f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
    return f"{year:04}-{month:02}-{day:02}T{clock}" + (f".{fraction:0{slot['digits']}}" if slot["digits"] else "") + slot["suffix"]


def civil(days):
    """Year, month and day of a day since 1970; Python's own dates begin with the year 1."""
    era, day = divmod(days + 719468, 146097)
    year = (day - day // 1460 + day // 36524 - day // 146096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    return year + era * 400 + (month > 9), month + (3 if month < 10 else -9), day - (153 * month + 2) // 5 + 1
