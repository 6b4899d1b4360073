"""aioquic against the REST API over HTTP/3: every path, streams both ways, and requests that are wrong in every way."""

import asyncio
import json
import ssl
import urllib.request
from dataclasses import dataclass, field

import pytest
from http3 import LIMIT, Ended, connect
from node import PASSWORD, Node

pytestmark = pytest.mark.anyio
NDJSON, SSE = "application/x-ndjson", "text/event-stream"
RECORD = {"device_id": "rpi_001", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3}}


@dataclass
class Call:
    """A request that is right, and the status it gets."""

    status: int = 200
    token: str = None
    body: object = None
    # Values for the path.
    path: dict = field(default_factory=dict)
    query: str = ""
    # Of a stream without an end, only the head is read.
    endless: bool = False


# How each operation of the three documents is asked. A new one has to be added, or `test_no_path_is_forgotten` fails.
CALLS = {
    "ap": {
        "POST /register": lambda cast: Call(201, body={"username": cast.new(), "password": PASSWORD, "role": "consumer"}),
        "POST /login": lambda cast: Call(body={"username": cast.consumer.username, "password": PASSWORD}),
        "POST /refresh": lambda cast: Call(body={"refresh_token": cast.refresh()}),
        "POST /logout": lambda cast: Call(body={"refresh_token": cast.refresh()}),
        "GET /producers": lambda cast: Call(token=cast.consumer.token, query="?limit=2"),
        "GET /consumers": lambda cast: Call(token=cast.producer.token, query="?after=1"),
        "GET /verify": lambda cast: Call(token=cast.producer.token),
        "GET /producers/{id}/visibility": lambda cast: Call(token=cast.producer.token, path={"id": cast.producer.id}),
        "PUT /producers/{id}/visibility": lambda cast: Call(
            token=cast.producer.token, body={"visibility": None}, path={"id": cast.producer.id}
        ),
        "POST /account/password": lambda cast: Call(
            403, cast.consumer.token, {"old_password": "not this one", "new_password": PASSWORD}
        ),
        "POST /account/reset": lambda cast: Call(401, body={"token": "nothing", "new_password": PASSWORD}),
        "GET /account/sessions": lambda cast: Call(token=cast.consumer.token),
        "DELETE /account/sessions/{id}": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "POST /account/logout-everywhere": lambda cast: Call(token=cast.consumer.token, body={"keep_current": True}),
        "GET /account/export": lambda cast: Call(token=cast.consumer.token),
        "DELETE /account": lambda cast: Call(403, cast.leaver.token, {"password": "not this one"}),
        "POST /keys": lambda cast: Call(201, cast.consumer.token, {"name": "interop", "scopes": ["consume"]}),
        "GET /keys": lambda cast: Call(token=cast.consumer.token),
        "DELETE /keys/{id}": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "POST /organisations": lambda cast: Call(201, cast.producer.token, {"name": cast.new()}),
        "GET /organisations": lambda cast: Call(token=cast.producer.token),
        "POST /organisations/join": lambda cast: Call(403, cast.consumer.token, {"invitation": "moti_nothing"}),
        "GET /organisations/{id}": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "DELETE /organisations/{id}": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "GET /plans": lambda cast: Call(token=cast.admin.token),
        "GET /organisations/{id}/plan": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "PUT /organisations/{id}/plan": lambda cast: Call(404, cast.admin.token, {"plan": None}, path={"id": "nothing"}),
        "POST /organisations/{id}/invitations": lambda cast: Call(404, cast.consumer.token, {"role": "reader"}, path={"id": "nothing"}),
        "GET /organisations/{id}/invitations": lambda cast: Call(404, cast.consumer.token, path={"id": "nothing"}),
        "DELETE /organisations/{id}/invitations/{invitation}": lambda cast: Call(
            404, cast.consumer.token, path={"id": "nothing", "invitation": "nothing"}
        ),
        "PUT /organisations/{id}/members/{user_id}": lambda cast: Call(
            404, cast.consumer.token, {"role": "reader"}, path={"id": "nothing", "user_id": cast.consumer.id}
        ),
        "DELETE /organisations/{id}/members/{user_id}": lambda cast: Call(
            404, cast.consumer.token, path={"id": "nothing", "user_id": cast.consumer.id}
        ),
        "DELETE /organisations/{id}/accounts/{user_id}": lambda cast: Call(
            404, cast.consumer.token, path={"id": "nothing", "user_id": cast.producer.id}
        ),
        "POST /organisations/{id}/accounts/{user_id}/token": lambda cast: Call(
            404, cast.consumer.token, path={"id": "nothing", "user_id": cast.producer.id}
        ),
        "GET /registration": lambda cast: Call(),
        "GET /.well-known/jwks.json": lambda cast: Call(),
        "POST /invitations": lambda cast: Call(201, cast.admin.token, {"role": "consumer"}),
        "GET /invitations": lambda cast: Call(token=cast.admin.token),
        "DELETE /invitations/{id}": lambda cast: Call(404, cast.admin.token, path={"id": "nothing"}),
        "GET /accounts": lambda cast: Call(token=cast.admin.token, query="?role=producer&limit=2"),
        "POST /accounts/{id}/revoke": lambda cast: Call(token=cast.admin.token, body={}, path={"id": cast.leaver.id}),
        "POST /accounts/{id}/restore": lambda cast: Call(token=cast.admin.token, body={}, path={"id": cast.leaver.id}),
        "POST /devices/enrolments": lambda cast: Call(201, cast.producer.token, {"uses": 2}),
        "GET /devices/enrolments": lambda cast: Call(token=cast.producer.token),
        "DELETE /devices/enrolments/{id}": lambda cast: Call(404, cast.producer.token, path={"id": "nothing"}),
        "POST /devices/enrol": lambda cast: Call(401, body={"token": "mte_nothing", "csr": "nothing"}),
        "POST /devices/renew": lambda cast: Call(401, body={"csr": "nothing"}),
        "POST /devices/challenge": lambda cast: Call(body={}),
        "POST /devices/token": lambda cast: Call(401, body={"credential": "nobody", "nonce": "none", "signature": ""}),
        "PUT /devices/{producer_id}/{device_id}/labels": lambda cast: Call(
            404, cast.producer.token, {"labels": {"site": "roof"}}, path={"producer_id": cast.producer.id, "device_id": "nobody"}
        ),
        "GET /devices/{producer_id}/registered": lambda cast: Call(token=cast.producer.token, path={"producer_id": cast.producer.id}),
        **{
            f"POST /devices/{{producer_id}}/{{device_id}}/{act}": lambda cast, status=status: Call(
                status, cast.producer.token, {}, path={"producer_id": cast.producer.id, "device_id": "interop"}
            )
            for act, status in (("quarantine", 200), ("revoke", 200), ("restore", 404))
        },
    },
    "sm": {
        "POST /subscribe": lambda cast: Call(200, cast.consumer.token, {"producer_id": cast.producer.id}),
        "DELETE /unsubscribe": lambda cast: Call(token=cast.leaver.token, query=f"?producer_id={cast.producer.id}"),
        "GET /subscriptions/{consumer_id}": lambda cast: Call(token=cast.consumer.token, path={"consumer_id": cast.consumer.id}),
        "GET /subscribers/{producer_id}": lambda cast: Call(token=cast.producer.token, path={"producer_id": cast.producer.id}),
        "POST /subscriptions/invite": lambda cast: Call(201, cast.producer.token, {"consumer_id": cast.leaver.id}),
        **{
            f"POST /subscriptions/{{id}}/{word}": lambda cast: Call(404, cast.producer.token, {}, path={"id": 2147483647})
            for word in ("approve", "deny", "revoke")
        },
        "GET /subscriptions/{id}/grant": lambda cast: Call(404, cast.consumer.token, path={"id": 2147483647}),
        "GET /acts": lambda cast: Call(token=cast.consumer.token, query="?limit=2"),
        "GET /audit": lambda cast: Call(token=cast.admin.token, query="?limit=2"),
        "GET /audit/chain": lambda cast: Call(token=cast.admin.token),
    },
    "dsm": {
        "POST /data": lambda cast: Call(token=cast.producer.token, body=[RECORD, {"temperature": 5}]),
        "GET /history/{producer_id}": lambda cast: Call(token=cast.consumer.token, path={"producer_id": cast.producer.id}),
        "GET /streams": lambda cast: Call(token=cast.consumer.token),
        "GET /usage": lambda cast: Call(404, cast.consumer.token),
        "GET /stream": lambda cast: Call(token=cast.consumer.token, query=f"?producers={cast.producer.id}", endless=True),
        "GET /devices/{producer_id}": lambda cast: Call(token=cast.consumer.token, path={"producer_id": cast.producer.id}),
        "GET /devices": lambda cast: Call(token=cast.admin.token, query="?query=interop"),
        "GET /connections": lambda cast: Call(token=cast.admin.token, query="?limit=2"),
        "DELETE /connections/{id}": lambda cast: Call(404, cast.admin.token, path={"id": "0123456789abcdef"}),
        "GET /nodes": lambda cast: Call(token=cast.admin.token),
        "GET /platform": lambda cast: Call(token=cast.admin.token),
        "POST /erasures": lambda cast: Call(202, cast.producer.token, {"device_id": "nobody"}),
        "GET /erasures": lambda cast: Call(token=cast.producer.token, query="?limit=2"),
        "GET /retention/{producer_id}": lambda cast: Call(token=cast.producer.token, path={"producer_id": cast.producer.id}),
        "PUT /retention/{producer_id}": lambda cast: Call(token=cast.producer.token, body={"log_age_seconds": 86400}, path={"producer_id": cast.producer.id}),
        "GET /cursors": lambda cast: Call(token=cast.consumer.token),
        "POST /cursors/{name}": lambda cast: Call(
            204, cast.consumer.token, {"cursors": {str(cast.producer.id): "1-1"}}, path={"name": "interop"}
        ),
        "DELETE /cursors/{name}": lambda cast: Call(404, cast.consumer.token, path={"name": "nobody"}),
    },
}


class Cast:
    """The accounts of one test, as far along as the calls need them."""

    def __init__(self, node):
        self.node = node
        self.producer, self.consumer, self.leaver = node.account("producer"), node.account("consumer"), node.account("consumer")
        self.admin = node.account("admin")
        for consumer in (self.consumer, self.leaver):
            node.subscribe(consumer, self.producer)
        node.post("dsm", "/data", RECORD, self.producer.token)

    def new(self):
        return self.node.name("new")

    def refresh(self):
        """A refresh token that was not used."""
        return self.node.post("ap", "/login", {"username": self.consumer.username, "password": PASSWORD})["refresh_token"]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def client(node):
    async with connect(node) as client:
        yield client


def document(node, service):
    with urllib.request.urlopen(f"{node.at[service]}/api-docs/openapi.json", timeout=LIMIT) as answer:
        return json.load(answer)


@pytest.mark.parametrize("service", CALLS)
def test_no_path_is_forgotten(node, service):
    methods = ("get", "post", "put", "patch", "delete")
    named = {
        f"{method.upper()} {path}" for path, item in document(node, service)["paths"].items() for method in methods if method in item
    }
    assert CALLS[service].keys() == named


@pytest.mark.parametrize(("service", "name"), [(service, name) for service, calls in CALLS.items() for name in calls])
async def test_every_path_answers_as_documented(node, client, service, name):
    method, template = name.split(" ")
    documented = document(node, service)["paths"][template][method.lower()]["responses"]
    # Beside the other services, and where no other has this path.
    for prefix in (f"/{service}", ""):
        call = CALLS[service][name](Cast(node))
        path = prefix + template.format(**call.path) + call.query
        if call.endless:
            exchange = client.begin(method, path, [("authorization", f"Bearer {call.token}")])
            answer = await exchange.head()
            exchange.reset()
        else:
            answer = await client.ask(method, path, call.token, call.body)
        assert answer.status == call.status, f"{path}: {answer}"
        kind = answer.headers.get("content-type", "").split(";")[0]
        assert kind in documented[str(call.status)].get("content", {"": None}), f"{path}: {answer}"
    # Calls without a token, where one is needed.
    if call.token:
        refused = await client.ask(method, path, None, call.body)
        assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert refused.headers["content-type"] == "application/problem+json"


async def test_operators_are_answered(client):
    assert (await client.ask("GET", "/health")).json()["status"] == "ok"
    assert (await client.ask("GET", "/ready")).json()["status"] == "ready"
    assert b"motience_uptime_seconds" in (await client.ask("GET", "/metrics")).body
    assert (await client.ask("GET", "/nowhere")).json()["code"] == "not_found"
    head = await client.ask("HEAD", "/health")
    assert (head.status, head.body) == (200, b"")
    assert (await client.ask("PATCH", "/login")).headers["allow"] == "POST"


def test_tcp_tells_of_http3(node):
    trust = ssl.create_default_context(cafile=node.at["ca"])
    with urllib.request.urlopen(f"{node.at['https']}/health", timeout=LIMIT, context=trust) as answer:
        assert answer.headers["alt-svc"].startswith(f'h3=":{node.at["quic"].rsplit(":", 1)[1]}"')


async def test_events_stream_and_resume(node, client):
    cast = Cast(node)
    path = f"/stream?producers={cast.producer.id}&from=earliest"
    headers = [("authorization", f"Bearer {cast.consumer.token}"), ("accept", SSE)]
    stream = client.begin("GET", path, headers)
    assert (await stream.head()).headers["content-type"].startswith(SSE)
    events = stream.blocks()
    first, record = await record_of(events)
    assert record["data"] == RECORD["data"]
    await client.ask("POST", "/data", cast.producer.token, {**RECORD, "data": {"n": 2}})
    assert (await record_of(events))[1]["data"] == {"n": 2}
    stream.reset()
    again = client.begin("GET", path, [*headers, ("last-event-id", first)])
    await again.head()
    assert (await record_of(again.blocks()))[1]["data"] == {"n": 2}
    again.reset()


async def record_of(events):
    """The id and the data of the next event that is a record."""
    async for block in events:
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line and not line.startswith(":"))
        if "data" in fields and "event" not in fields:
            return fields["id"], json.loads(fields["data"])
    raise AssertionError("the stream ended")


async def test_lines_go_up_and_down_at_once(node, client):
    """Bytes arrive before the sending ends: neither direction is gathered up."""
    cast = Cast(node)
    down = client.begin("GET", f"/stream?producers={cast.producer.id}", [("authorization", f"Bearer {cast.consumer.token}"), ("accept", NDJSON)])
    assert (await down.head()).headers["content-type"].startswith(NDJSON)
    lines = down.blocks(b"\n")
    up = client.begin("POST", "/data", [("authorization", f"Bearer {cast.producer.token}"), ("content-type", NDJSON)], end=False)
    for n in range(3):
        up.write(json.dumps({**RECORD, "data": {"n": n}}).encode() + b"\n")
        async for line in lines:
            if "data" in (message := json.loads(line)):
                assert message["data"] == {"n": n}
                break
    up.write(b"nonsense\n")
    up.trailers([("x-checksum", "none")])
    answer = await up.answer()
    assert answer.status == 200
    summary = answer.json()
    assert (summary["accepted"], summary["rejected"], summary["subscriberCount"]) == (3, 1, 2)
    assert summary["errors"][0]["line"] == 4
    down.reset()


async def test_trailers_end_a_request(node, client):
    producer = node.account("producer")
    exchange = client.begin("POST", "/data", [("authorization", f"Bearer {producer.token}"), ("content-type", "application/json")], end=False)
    exchange.write(json.dumps(RECORD).encode())
    exchange.trailers([("x-checksum", "none")])
    answer = await exchange.answer()
    assert (answer.status, answer.json()["accepted"]) == (200, 1)


async def test_many_requests_at_once(node, client):
    producer = node.account("producer")
    asked = [client.ask("POST", "/data", producer.token, {**RECORD, "data": {"n": n}}) for n in range(90)]
    answers = await asyncio.gather(*asked)
    assert all(answer.status == 200 and answer.json()["accepted"] == 1 for answer in answers)
    kept = await client.ask("GET", f"/history/{producer.id}?limit=1000", producer.token)
    assert sorted(record["data"]["n"] for record in kept.json()) == list(range(90))


GOOD = {":method": "GET", ":scheme": "https", ":authority": "localhost", ":path": "/health"}
POST = {**GOOD, ":method": "POST", ":path": "/login", "content-type": "application/json"}
MALFORMED = {
    "no method": [(name, value) for name, value in GOOD.items() if name != ":method"],
    "no path": [(name, value) for name, value in GOOD.items() if name != ":path"],
    "no scheme": [(name, value) for name, value in GOOD.items() if name != ":scheme"],
    "an empty path": [*({**GOOD, ":path": ""}).items()],
    "a path that is none": [*({**GOOD, ":path": "health"}).items()],
    "an unknown pseudo field": [*GOOD.items(), (":odd", "1")],
    "a pseudo field twice": [*GOOD.items(), (":path", "/ready")],
    "a pseudo field of answers": [*GOOD.items(), (":status", "200")],
    "a pseudo field behind others": [("accept", "*/*"), *GOOD.items()],
    "a capital letter in a name": [*GOOD.items(), ("Accept", "*/*")],
    "a blank in a name": [*GOOD.items(), ("ac cept", "*/*")],
    "a line end in a value": [*GOOD.items(), ("accept", "a\r\nb")],
    "a field of HTTP/1.1's connections": [*GOOD.items(), ("connection", "close")],
    "a transfer coding": [*GOOD.items(), ("transfer-encoding", "chunked")],
    "te that is not trailers": [*GOOD.items(), ("te", "gzip")],
    "a length that does not hold": [*POST.items(), ("content-length", "5")],
    "a length that is none": [*GOOD.items(), ("content-length", "five")],
    "two hosts": [*GOOD.items(), ("host", "elsewhere")],
}


@pytest.mark.parametrize("fault", MALFORMED)
async def test_a_malformed_request_ends_its_own_stream(client, fault):
    other = client.begin("POST", "/login", [("content-type", "application/json")], end=False)
    bad = client.send(MALFORMED[fault])
    try:
        answer = await bad.answer()
        assert answer.status == 400, answer
    except Ended as reset:
        # H3_MESSAGE_ERROR
        assert reset.code == 0x10E and not client.ended.is_set(), reset
    # One in progress, and a new one.
    other.write(b"{", end=True)
    assert (await other.answer()).json()["code"] == "malformed_json"
    assert (await client.ask("GET", "/health")).status == 200


async def test_what_is_too_large_is_refused(node, client):
    producer = node.account("producer")
    huge = client.begin("GET", "/health", [("x-huge", "x" * 40_000)])
    try:
        assert (await huge.answer()).status == 431
    except Ended as reset:
        assert not client.ended.is_set(), reset
    body = json.dumps({"username": "x" * 100_000, "password": PASSWORD, "role": "producer"}).encode()
    assert (await client.ask("POST", "/register", body=body)).json()["code"] == "body_too_large"
    # A body over the limit of /data, sent without its length and longer than any window.
    exchange = client.begin("POST", "/data", [("authorization", f"Bearer {producer.token}"), ("content-type", "application/json")], end=False)
    exchange.write(b'"' + b"x" * (3 << 20))
    assert (await exchange.head()).status == 413
    exchange.reset()
    assert (await client.ask("GET", "/health")).status == 200


async def test_a_node_that_goes_says_so_and_answers_what_it_has(tmp_path):
    node = Node(tmp_path)
    producer = node.account("producer")
    async with connect(node) as client:
        assert (await client.ask("GET", "/health")).status == 200
        body = json.dumps(RECORD).encode()
        headers = [("authorization", f"Bearer {producer.token}"), ("content-type", "application/json")]
        upload = client.begin("POST", "/data", headers, end=False)
        upload.write(body[:10])
        # Whoever has an answer to a later request knows that the earlier has come.
        assert (await client.ask("GET", "/health")).status == 200
        node.process.terminate()
        await asyncio.wait_for(client.http.going.wait(), LIMIT)
        upload.write(body[10:], end=True)
        answer = await upload.answer()
        assert (answer.status, answer.json()["accepted"]) == (200, 1)
        await asyncio.wait_for(client.ended.wait(), LIMIT)
    await asyncio.to_thread(node.ended)
