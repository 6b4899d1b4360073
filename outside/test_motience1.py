"""docs/protocol.md, tried: a client that was written from it alone against docs/vectors.json and against real nodes."""

import asyncio
import json
import re
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from motience1 import (
    CAUSES,
    COMPACT,
    CONTROL_LIMIT,
    DONE,
    DRAINING,
    FENCED,
    FORBIDDEN,
    LATEST,
    LIMIT,
    PROTOCOL,
    RATE_LIMITED,
    ORDER,
    SELECTION,
    UNAUTHENTICATED,
    Closed,
    connect,
)
from motience1_bytes import DELIVERY, INDEPENDENT, KINDS, ORDERED, TYPES, Broken, Templates, decode, encode, peek, varint
from motience1_tunnel import tunnel
from node import ROOT, Node

pytestmark = pytest.mark.anyio
DEVICE = "rpi_001"
VECTORS = json.loads((ROOT / "docs/vectors.json").read_text(encoding="utf-8"))


@pytest.fixture
def anyio_backend():
    return "asyncio"


# ── The vectors


def about(vector):
    return vector.get("about") or vector.get("name") or vector.get("kind") or vector["hex"]


def vectors(part):
    return pytest.mark.parametrize("vector", VECTORS[part], ids=about)


def native(fields):
    """A vector's fields as the codec has them: numbers of 64 bits are numbers, and what may be any bytes is bytes."""
    if isinstance(fields, list):
        return [native(one) for one in fields]
    if not isinstance(fields, dict):
        return fields
    kinds = {"producer_epoch": int, "log_epoch": int, "base": int, "json": str.encode, "message": str.encode, "values": bytes.fromhex}
    # The message of a refusal is a text; that of an entry is a record.
    if "code" in fields:
        del kinds["message"]
    return {key: kinds[key](value) if key in kinds else native(value) for key, value in fields.items()}


def all_of(data, limit=CONTROL_LIMIT):
    """Every frame of some bytes, and what is left over."""
    buffer, frames = bytearray(data), []
    while frame := decode(buffer, limit):
        frames.append(frame)
    return frames, bytes(buffer)


@vectors("varints")
async def test_varint(vector):
    data, number = bytes.fromhex(vector["hex"]), int(vector["number"])
    assert peek(data) == (number, len(data))
    assert all(peek(data[:cut]) is None for cut in range(len(data)))
    assert vector.get("written", True) == (varint(number) == data)


@vectors("streams")
async def test_stream_kind(vector):
    kind, _ = peek(bytes.fromhex(vector["hex"]))
    assert KINDS.get(kind) == vector.get("kind")
    assert ("error" in vector) == (kind not in (ORDERED, INDEPENDENT, DELIVERY))


@vectors("frames")
async def test_frame(vector):
    data, fields = bytes.fromhex(vector["hex"]), native(vector["fields"])
    assert TYPES[vector["name"]] == vector["type"]
    assert all_of(data) == ([(vector["name"], fields)], b"")
    assert encode(vector["name"], **fields) == data
    for cut in range(len(data)):
        assert all_of(data[:cut]) == ([], data[:cut])


async def test_no_frame_is_without_a_vector():
    assert {vector["name"] for vector in VECTORS["frames"]} == set(TYPES)


@vectors("skipped")
async def test_skipped(vector):
    frames = [(frame["name"], native(frame["fields"])) for frame in vector["frames"]]
    assert all_of(bytes.fromhex(vector["hex"])) == (frames, b"")


@vectors("incomplete")
async def test_incomplete(vector):
    data = bytes.fromhex(vector["hex"])
    assert all_of(data) == ([], data)


@vectors("refused")
async def test_refused(vector):
    with pytest.raises(Broken) as broken:
        all_of(bytes.fromhex(vector["hex"]), vector["limit"])
    assert broken.value.error == vector["error"]


@vectors("templates")
async def test_template(vector):
    templates = Templates()
    [(name, template)], _ = all_of(bytes.fromhex(vector["hex"]))
    assert name == "Template"
    templates.add(template)
    for record in vector["records"]:
        [(name, compact)], _ = all_of(bytes.fromhex(record["hex"]))
        assert name == "Compact"
        assert templates.restore(compact, 64 * 1024).decode() == record["json"]


@vectors("templates_refused")
async def test_template_refused(vector):
    templates = Templates()

    def take(data):
        [(name, fields)], _ = all_of(bytes.fromhex(data))
        return templates.add(fields) if name == "Template" else templates.restore(fields, vector["limit"])

    for data in vector["frames"][:-1]:
        take(data)
    with pytest.raises(Broken) as broken:
        take(vector["frames"][-1])
    assert broken.value.error == vector["error"]


@vectors("sessions")
async def test_session(vector):
    for step in vector["steps"]:
        data = bytes.fromhex(step["hex"])
        # Whatever opens its stream begins with the stream's kind.
        kind = next((kind for kind, name in KINDS.items() if name == step["on"] and data[0] == kind), None)
        frames, left = all_of(data if kind is None else data[1:])
        assert ([name for name, _ in frames], left) == (step["frames"], b"")


async def test_close_codes_have_their_names():
    assert [(code["code"], code["name"]) for code in VECTORS["close_codes"]] == [row[:2] for row in CODES]


# ── The page

PAGE = (ROOT / "docs/protocol.md").read_text(encoding="utf-8")


def rows(heading, *columns):
    """The cells of a table's rows below a heading, as these patterns find them."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| " + r" \| ".join(columns) + r" \|$", section, re.MULTILINE)


CODES = [(int(code), name) for code, name in rows("Close codes", r"(\d)", r"`(\w+)`", ".*", ".*")]
# The first table of frames: type, name, where, who.
TABLE = rows("Frames", r"(0x\w\w)", r"`(\w+)`", "(.*)", "(.*)")
ROLES = {"produce": "device", "consume": "consumer"}


async def test_the_page_has_every_frame():
    assert {name: int(number, 16) for number, name, _, _ in TABLE} == TYPES


def defaults():
    """The settings of .env.example."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.removeprefix("#").split("=", 1) for line in lines if re.match(r"#?[A-Z][A-Z0-9_]*=", line))


async def test_the_pages_limits_are_the_defaults():
    known = defaults()
    for limit, settings in rows("Limits", "[^|]*", "([^|]*)", "([^|]*)", "[^|]*"):
        names = re.findall(r"`([A-Z0-9_]+)`", settings)
        for name, value in zip(names, limit.split("; "), strict=True) if names else ():
            value = value.replace(",", "").replace(" a minute", "/m").split(" a second")[0].replace(" ", "")
            assert "maxrecord" in value or value == known[name], (name, value, known[name])
    for name in set(re.findall(r"`([A-Z]+_[A-Z0-9_]+)`", PAGE)) - {"CONNECTION_REFUSED", "EPOCH-OFFSET"}:
        assert name in known, name


async def spoken(node, role, account, frame):
    """The close code of a connection of this role on which a frame is sent; `None` where it goes on."""
    async with to(node) as connection:
        await connection.hello(role, account.token, DEVICE, 1, COMPACT | LATEST | SELECTION)
        connection._write(0, frame + encode("Ping"))
        try:
            while await connection.control.next() != ("Pong", {}):
                pass
        except Closed as closed:
            return closed.code
    return None


@pytest.mark.parametrize("role", ROLES)
async def test_the_table_says_who_may_send_what(node, role):
    sample = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in VECTORS["frames"]}
    account = node.account(f"{role}r")
    for _, name, where, who in TABLE:
        code = await spoken(node, role, account, sample[name])
        first = where == "C up, first"
        if "C up" not in where or first or not (ROLES[role] in who or who in ("all", "both")):
            assert code == PROTOCOL, name
        elif name == "TokenRefresh":
            assert code == UNAUTHENTICATED
        else:
            # A consumer that is done is let go.
            assert code == (DONE if (name, role) == ("Done", "consume") else None), name


async def test_the_table_says_what_comes_on_uplink_streams(node):
    producer = node.account("producer")
    sample = {vector["name"]: bytes.fromhex(vector["hex"]) for vector in VECTORS["frames"]}
    for _, name, where, _ in TABLE:
        device = Device(producer)
        async with to(node) as up:
            await device.open(up)
            if "uplink" not in where:
                up.independent(sample[name])
                assert await up.closed() == PROTOCOL, name
            elif name == "Record":
                up.independent(device.record(1))
                await device.settled(up)


# ── A node


class Device:
    """The part of an outbox that a test needs: numbers, and what is not settled."""

    def __init__(self, account):
        self.account, self.epoch, self.held, self.given = account, secrets.randbits(64), {}, 0

    def record(self, n):
        """Takes a record; its frame."""
        self.given += 1
        self.held[self.given] = reading(n)
        return encode("Record", seq=self.given, json=self.held[self.given])

    async def open(self, connection, features=COMPACT | LATEST):
        welcome = await connection.hello("produce", self.account.token, DEVICE, self.epoch, features)
        self.settle(welcome["dedup_window"])
        return welcome

    def settle(self, ranges):
        for first, last in ranges:
            assert last <= self.given, "the log has numbers that were never given out"
            for seq in range(first, last + 1):
                self.held.pop(seq, None)

    async def settled(self, connection):
        """Waits until nothing is in flight."""
        while self.held:
            self.settle((await connection.control.expect("Ack"))["ranges"])


class Follow:
    """A consumer's cursor in one log, and what it has read of it."""

    def __init__(self, producer):
        self.producer, self.cursor, self.ids = producer, None, set()

    async def open(self, connection, start="earliest", selection=""):
        start = {"kind": "cursor", "cursor": self.cursor} if self.cursor else {"kind": start}
        connection.say("Subscribe", producer=self.producer.id, start=start, cursor_name="", selection=selection)
        assert await connection.control.expect("Followed") == {"producer": self.producer.id, "refusal": ""}
        self.stream = await connection.delivery()
        head = await self.stream.expect("Cursor")
        assert head["producer"] == self.producer.id
        assert self.cursor in (None, head["cursor"])
        self.cursor = head["cursor"]

    async def read(self, count):
        """Reads so many records that were not read before; their readings."""
        readings = []
        while len(readings) < count:
            name, fields = await self.stream.next()
            if name == "Cursor":
                # The log may have lost its tail: what comes now may have come before, at other offsets.
                assert fields["cursor"]["log_epoch"] != self.cursor["log_epoch"]
                self.cursor = fields["cursor"]
                continue
            assert (name, fields["offset"]) == ("Entry", self.cursor["offset"] + 1)
            self.cursor = {**self.cursor, "offset": fields["offset"]}
            message, record_id = json.loads(fields["message"]), (fields["producer_epoch"], fields["seq"])
            assert message["producer_id"] == str(self.producer.id)
            if record_id not in self.ids:
                self.ids.add(record_id)
                readings.append(message["data"]["n"])
        return readings


def reading(n):
    return json.dumps({"device_id": DEVICE, "timestamp": "2025-01-29T11:35:00.000Z", "data": {"n": n}}, separators=(",", ":")).encode()


def to(node):
    return connect(node.at["quic"], node.at["ca"])


@asynccontextmanager
async def consumer_of(node, producer, follow=None):
    """A consumer's connection that follows a producer from its log's beginning, or from where it was."""
    account = node.account("consumer")
    node.subscribe(account, producer)
    follow = follow or Follow(producer)
    async with to(node) as connection:
        welcome = await connection.hello("consume", account.token, "python", features=SELECTION)
        assert (welcome["fence"], welcome["credit"], welcome["dedup_window"], welcome["features"]) == (0, 0, [], SELECTION)
        await follow.open(connection)
        yield connection, follow


async def test_records_on_each_lane_are_acknowledged_and_delivered(node):
    producer = node.account("producer")
    device = Device(producer)
    async with to(node) as up, consumer_of(node, producer) as (_, follow):
        welcome = await device.open(up)
        assert welcome["features"] == COMPACT | LATEST and welcome["credit"] > 0 and welcome["fence"] > 0
        up.ordered(device.record(1))
        await device.settled(up)
        up.ordered(device.record(2), device.record(3))
        await device.settled(up)
        up.independent(device.record(4))
        up.independent(device.record(5))
        await device.settled(up)
        assert await follow.read(3) == [1, 2, 3]
        # Streams overtake each other.
        assert sorted(await follow.read(2)) == [4, 5]
        up.latest(encode("Record", seq=1, json=reading(6)))
        assert await follow.read(1) == [6]
        up.say("Ping")
        # Nothing acknowledges a datagram.
        assert await up.control.expect("Pong") == {}
        up.say("Health", backlog=0, loss_ppm=None)
        up.say("Done")
        await up.leave()


async def test_an_api_key_is_as_good_as_a_login(node):
    producer, consumer = node.account("producer"), node.account("consumer")
    publish = replace(producer, token=key_of(node, producer, "publish"))
    consume = replace(consumer, token=key_of(node, consumer, "consume"))
    node.subscribe(consumer, producer)
    follow, device = Follow(producer), Device(publish)
    async with to(node) as up, to(node) as down:
        await down.hello("consume", consume.token, "python", features=SELECTION)
        await follow.open(down)
        await device.open(up)
        up.ordered(device.record(1))
        await device.settled(up)
        assert await follow.read(1) == [1]
    # Within its scopes only.
    async with to(node) as connection:
        with pytest.raises(Closed) as refused:
            await connection.hello("produce", key_of(node, producer, "read_usage"), DEVICE, 1)
        assert refused.value.code == FORBIDDEN


def key_of(node, account, scope):
    return node.post("ap", "/keys", {"name": scope, "scopes": [scope]}, account.token)["key"]


async def test_a_repeated_record_is_in_the_log_once(node):
    producer = node.account("producer")
    device = Device(producer)
    async with to(node) as up, consumer_of(node, producer) as (_, follow):
        await device.open(up)
        frames = [device.record(n) for n in range(1, 4)]
        up.independent(frames[0])
        # Redundant transmission: behind later records.
        up.independent(frames[1], frames[0])
        up.independent(frames[2], frames[1], frames[0])
        await device.settled(up)
        up.ordered(device.record(4))
        await device.settled(up)
        assert sorted(await follow.read(3)) == [1, 2, 3]
        assert await follow.read(1) == [4]


async def test_what_will_not_come_and_what_is_no_record(node):
    producer = node.account("producer")
    device = Device(producer)
    async with to(node) as up:
        await device.open(up)
        device.record(1), device.record(2)
        up.say("Skipped", ranges=[[1, 2]])
        await device.settled(up)
        up.ordered(encode("Record", seq=3, json=b'{"data":{}}'))
        refused = await up.control.expect("Refused")
        assert (refused["seq"], refused["code"]) == (3, "missing_field")
        up.ordered(encode("Record", seq=4, json=reading(4).replace(DEVICE.encode(), b"another")))
        assert (await up.control.expect("Refused"))["code"] == "wrong_device"
        await up.leave()
    device.given = 4
    async with to(node) as up:
        welcome = await up.hello("produce", producer.token, DEVICE, device.epoch)
        assert (welcome["dedup_window"], welcome["features"]) == ([[1, 4]], 0)


async def test_a_device_with_too_many_holes_comes_again_and_closes_them(tmp_path):
    node = Node(tmp_path, LOG_MAX_DEDUP_RANGES="3")
    producer = node.account("producer")
    device = Device(producer)
    frames = {n: device.record(n) for n in range(1, 9)}
    url = node.at["wss1"].replace("/producer", "/motience")
    async with to(node) as up:
        await device.open(up)
        for n in (1, 3, 5):
            up.ordered(frames[n])
            device.settle((await up.control.expect("Ack"))["ranges"])
        up.ordered(frames[7])
        assert await up.closed() == RATE_LIMITED
    async with tunnel(url) as through:
        welcome = await through.hello(producer.token, DEVICE, device.epoch)
        assert welcome["dedup_window"] == [[1, 1], [3, 3], [5, 5]]
        through.message(frames[7])
        assert await through.closed() == 4100 + RATE_LIMITED
    async with to(node) as up:
        await device.open(up)
        assert list(device.held) == [2, 4, 6, 7, 8]
        up.ordered(*(frames[n] for n in device.held))
        await device.settled(up)
    node.stop()


async def test_a_compact_record_is_the_record(node):
    producer = node.account("producer")
    device = Device(producer)
    before, behind = reading(0).split(b'"n":0')
    number = {"kind": "number", "decimals": 1, "zeros": "cut"}
    template = {"template": 5, "parts": [{"literal": before.decode() + '"n":', "slot": number}], "tail": behind.decode()}
    async with to(node) as up, consumer_of(node, producer) as (_, follow):
        await device.open(up)
        up.say("Template", **template)
        assert await up.control.expect("TemplateAccepted") == {"template": 5}
        device.record(24.5), device.record(-7)
        # 245 tenths, and minus 70; the lowest bit is the sign, and 0 would spell the number out.
        values = {1: 245 * 2 + 1, 2: 70 * 2 + 1 + 1}
        mine = Templates()
        mine.add(template)
        for seq, packed in values.items():
            compact = {"seq": seq, "template": 5, "values": varint(packed)}
            assert mine.restore(compact, 65536) == device.held[seq]
            up.ordered(encode("Compact", **compact))
        await device.settled(up)
        up.latest(encode("Compact", seq=1, template=5, values=varint(0) + varint(3) + b"1e3"))
        assert await follow.read(3) == [24.5, -7, 1000.0]


async def test_a_consumer_goes_on_where_it_was(node):
    producer = node.account("producer")
    device = Device(producer)
    async with to(node) as up:
        await device.open(up)
        up.ordered(*(device.record(n) for n in range(1, 6)))
        await device.settled(up)
        async with consumer_of(node, producer) as (down, follow):
            assert await follow.read(3) == [1, 2, 3]
            down.say("Done")
            assert await down.closed() == DONE
        up.ordered(device.record(6))
        await device.settled(up)
        async with consumer_of(node, producer, follow) as (down, _):
            assert await follow.read(3) == [4, 5, 6]
            down.say("Unsubscribe", producer=producer.id)
            assert (await down.control.expect("Followed"))["refusal"] == "unsubscribed"
            assert await follow.stream.next() is None


async def test_a_named_cursor_is_kept_by_the_node(node):
    producer, account = node.account("producer"), node.account("consumer")
    node.subscribe(account, producer)
    device = Device(producer)
    async with to(node) as up:
        await device.open(up)
        up.ordered(*(device.record(n) for n in range(1, 4)))
        await device.settled(up)
    heads = []
    for _ in range(2):
        async with to(node) as down:
            await down.hello("consume", account.token, "python")
            down.say("Subscribe", producer=producer.id, start={"kind": "earliest"}, cursor_name="place", selection="")
            stream = await down.delivery()
            heads.append((await stream.expect("Cursor"))["cursor"])
            down.say("Confirm", producer=producer.id, cursor={**heads[0], "offset": 2})
            down.say("Done")
            assert await down.closed() == DONE
    assert [head["offset"] for head in heads] == [0, 2]


async def test_device_order_says_how_far_it_has_come(node):
    producer, account = node.account("producer"), node.account("consumer")
    node.subscribe(account, producer)
    device = Device(producer)
    async with to(node) as up, to(node) as down:
        await device.open(up)
        records = {n: device.record(n) for n in range(1, 4)}
        for n in (1, 3, 2):
            up.ordered(records[n])
        await device.settled(up)
        await down.hello("consume", account.token, "python", features=ORDER)
        down.say("Subscribe", producer=producer.id, start={"kind": "earliest"}, cursor_name="", selection="", order="device")
        stream = await down.delivery()
        cursor, seqs = (await stream.expect("Cursor"))["cursor"], []
        while cursor["offset"] < 3:
            name, fields = await stream.next()
            if name == "Cursor":
                cursor = fields["cursor"]
            else:
                seqs.append(fields["seq"])
        assert seqs == [1, 2, 3]


async def test_a_selection_says_how_far_it_has_come(node):
    producer, account = node.account("producer"), node.account("consumer")
    node.subscribe(account, producer)
    device = Device(producer)
    async with to(node) as up, to(node) as down:
        await device.open(up)
        up.ordered(*(device.record(n) for n in range(1, 5)))
        await device.settled(up)
        await down.hello("consume", account.token, "python", features=SELECTION)
        follow = {"producer": producer.id, "start": {"kind": "earliest"}, "cursor_name": ""}
        down.say("Subscribe", **follow, selection='{"where":["/data/n>>1"]}')
        assert (await down.control.expect("Followed"))["refusal"] == "invalid_expression"
        down.say("Subscribe", **follow, selection='{"where":["/data/n=3"]}')
        stream = await down.delivery()
        cursor, offsets = (await stream.expect("Cursor"))["cursor"], []
        while cursor["offset"] < 4:
            name, fields = await stream.next()
            if name == "Cursor":
                cursor = fields["cursor"]
            else:
                offsets.append(fields["offset"])
        assert offsets == [3]


async def test_the_first_flight(node):
    producer, tickets = node.account("producer"), []
    device = Device(producer)
    async with connect(node.at["quic"], node.at["ca"], keep=tickets.append) as up:
        await device.open(up)
        up.ordered(device.record(1))
        await device.settled(up)
    # A ticket is good once; what came too early is then sent again, which QUIC does by itself here.
    for ticket, taken in [(tickets[0], True), (tickets[0], False), (tickets[1], True)]:
        async with connect(node.at["quic"], node.at["ca"], ticket=ticket) as up:
            hello = asyncio.ensure_future(device.open(up, features=0))
            await asyncio.sleep(0)
            up.independent(device.record(2))
            assert not up._quic.tls.early_data_accepted
            await hello
            assert up._quic.tls.early_data_accepted == taken
            await device.settled(up)
            await up.leave()


async def test_a_device_changes_between_quic_and_the_tunnel(node):
    producer = node.account("producer")
    device, url = Device(producer), node.at["wss1"].replace("/producer", "/motience")
    async with to(node) as up, consumer_of(node, producer) as (_, follow):
        await device.open(up)
        up.ordered(device.record(1))
        await device.settled(up)
        second = device.record(2)
        async with tunnel(url) as through:
            # Of the first record too, as if its acknowledgement had not come.
            repeated = encode("Record", seq=1, json=reading(1))
            welcome = await through.hello(producer.token, DEVICE, device.epoch, COMPACT | LATEST, behind=repeated + second)
            assert (welcome["dedup_window"], welcome["features"]) == ([[1, 1]], COMPACT)
            assert await up.closed() == FENCED
            await device.settled(through)
            through.say("Ping")
            assert (await through.control.next())[0] in ("Pong", "Ack")
            through.say("Template", template=1, parts=[], tail=reading(3).decode())
            while (await through.control.next())[0] != "TemplateAccepted":
                pass
            device.record(3)
            through.say("Compact", seq=3, template=1, values=b"")
            await device.settled(through)
            assert await follow.read(3) == [1, 2, 3]
            async with to(node) as again:
                await device.open(again)
                assert await through.closed() == 4100 + FENCED
    for message, code in [(encode("Ping"), PROTOCOL), (encode("Ping")[:1], PROTOCOL)]:
        async with tunnel(url) as through:
            through.message(message)
            assert await through.closed() == 4100 + code
    async with tunnel(url) as through:
        through.message(b"text", kind=1)
        assert await through.closed() == 4100 + PROTOCOL


async def test_an_uplink_stream_is_ended_and_not_reset(node):
    producer = node.account("producer")
    device = Device(producer)
    async with to(node) as up:
        await device.open(up)
        up.ordered(device.record(1))
        await device.settled(up)
        up._write(up.line, b"", end=True)
        up.independent(device.record(2))
        await device.settled(up)
        up.line = None
        up.ordered(device.record(3)[:5])
        up.say("Ping")
        await up.control.expect("Pong")
        up._quic.reset_stream(up.line, 0)
        up.transmit()
        assert await up.closed() == DONE
    for stream, code in [(varint(DELIVERY), PROTOCOL), (varint(4), PROTOCOL), (varint(ORDERED) + encode("Ping"), PROTOCOL)]:
        async with to(node) as up:
            await device.open(up)
            up._write(up._quic.get_next_available_stream_id(is_unidirectional=True), stream)
            assert await up.closed() == code


async def test_what_retention_removed_is_told(tmp_path):
    node = Node(tmp_path, LOG_RETENTION_BYTES="64KiB")
    producer, account = node.account("producer"), node.account("consumer")
    node.subscribe(account, producer)
    device = Device(producer)
    async with to(node) as up, to(node) as down:
        await device.open(up)
        for n in range(1, 41):
            up.ordered(encode("Record", seq=n, json=reading(n).replace(b'"data":{', b'"data":{"filling":"' + b"x" * 8000 + b'",')))
            device.given, device.held = n, {n: b""}
            await device.settled(up)
        await down.hello("consume", account.token, "python")
        # Records over the retention limit leave the log within a moment.
        first, deadline = 0, time.monotonic() + LIMIT
        while first < 4 and time.monotonic() < deadline:
            down.say("Subscribe", producer=producer.id, start={"kind": "earliest"}, cursor_name="", selection="")
            first = (await (await down.delivery()).expect("Cursor"))["cursor"]["offset"]
            down.say("Unsubscribe", producer=producer.id)
            while (await down.control.expect("Followed"))["refusal"] != "unsubscribed":
                pass
        assert first >= 4
        # The log epoch 0 is no log's: the offset is believed.
        start = {"kind": "cursor", "cursor": {"log_epoch": 0, "offset": 3}}

        async def told(down):
            """Why the offsets behind 3 are gone."""
            down.say("Subscribe", producer=producer.id, start=start, cursor_name="", selection="")
            stream = await down.delivery()
            head = (await stream.expect("Cursor"))["cursor"]
            assert head["offset"] == 3 and head["log_epoch"] > 0
            gap = await stream.expect("Gap")
            assert (gap["producer"], gap["from"]) == (producer.id, 4) and gap["to"] >= 4
            offsets = [(await stream.expect("Entry"))["offset"] for _ in range(gap["to"], 40)]
            assert offsets == list(range(gap["to"] + 1, 41))
            return gap["cause"]

        assert await told(down) is None
        async with to(node) as other:
            assert (await other.hello("consume", account.token, "other", features=CAUSES))["features"] == CAUSES
            assert await told(other) == "retention"
    node.stop()


async def test_close_codes(node):
    producer, consumer = node.account("producer"), node.account("consumer")
    stranger = node.account("producer")
    hello = {"version": 1, "intent": "produce", "token": producer.token, "device_id": DEVICE, "producer_epoch": 1, "features": 0}
    for frame, code in [
        (encode("Hello", **{**hello, "token": "nobody"}), UNAUTHENTICATED),
        (encode("Hello", **{**hello, "token": consumer.token}), FORBIDDEN),
        (encode("Hello", **{**hello, "intent": "consume"}), FORBIDDEN),
        (encode("Hello", **{**hello, "version": 2}), PROTOCOL),
        (encode("Hello", **{**hello, "device_id": ""}), PROTOCOL),
        (encode("Ping"), PROTOCOL),
        (encode("Hello", **hello) + b"\x3f\0", PROTOCOL),
        # An unknown frame of an even type is none of the node's business; a consumer's frame is.
        (encode("Hello", **hello) + b"\x3e\0" + encode("Unsubscribe", producer=1), PROTOCOL),
        (encode("Hello", **hello) + encode("TokenRefresh", token="nobody"), UNAUTHENTICATED),
        (encode("Hello", **hello) + encode("TokenRefresh", token=stranger.token), FORBIDDEN),
        (encode("Hello", **hello) + encode("Compact", seq=1, template=0, values=b""), PROTOCOL),
    ]:
        async with to(node) as connection:
            assert connection._quic.get_next_available_stream_id() == 0
            connection._write(0, frame)
            assert await connection.closed() == code, frame
    async with to(node) as connection:
        await connection.hello("produce", producer.token, DEVICE, 1)
        connection.say("TokenRefresh", token=producer.token)
        assert (await connection.control.expect("TokenAccepted"))["expires_in"] > 0
        async with to(node) as newer:
            await newer.hello("produce", producer.token, DEVICE, 1)
            assert await connection.closed() == FENCED


async def test_a_node_that_goes_away_is_left_and_found_again(tmp_path):
    first = Node(tmp_path)
    producer = first.account("producer")
    device = Device(producer)
    url = first.at["wss1"].replace("/producer", "/motience")
    async with to(first) as up, tunnel(url) as through, consumer_of(first, producer) as (down, follow):
        await through.hello(producer.token, "another", 1)
        fence = (await device.open(up))["fence"]
        up.ordered(device.record(1), device.record(2))
        await device.settled(up)
        assert await follow.read(2) == [1, 2]
        first.process.terminate()
        for connection in (up, through, down):
            assert await connection.control.expect("Drain") == {}
            connection.say("Done")
        await up.leave()
        # One that stays is closed.
        assert await through.closed() == 4100 + DRAINING
        assert await down.closed() in (DONE, DRAINING)
    first.ended()
    (tmp_path / "ready.json").unlink(missing_ok=True)
    second = Node(tmp_path)
    async with to(second) as up, consumer_of(second, producer, follow):
        # As if the acknowledgements of the last connection had not come.
        device.held = {1: reading(1), 2: reading(2)}
        third = device.record(3)
        welcome = await device.open(up)
        assert (welcome["dedup_window"], list(device.held)) == ([[1, 2]], [3])
        assert welcome["fence"] > fence
        # Whoever sends the rest again all the same is not believed.
        up.ordered(encode("Record", seq=1, json=reading(1)), third)
        await device.settled(up)
        assert await follow.read(1) == [3]
    second.stop()
