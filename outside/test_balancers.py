"""nginx and HAProxy with the configurations of deploy/balancers, in front of two servers and two gateways."""

import asyncio
import http.client
import json
import re
import ssl
import subprocess
import time
from contextlib import ExitStack

import backends
import certificate
import motience1
import pytest
from motience1_tunnel import tunnel
from node import GATEWAY, ROOT, START_LIMIT, Node

EXAMPLES = ROOT / "deploy/balancers"
RECORD = {"device_id": "d1", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": 1}}
# Ports that the examples name, as the nodes name what is behind them.
SERVICES = {3001: "ap", 3002: "sm", 3003: "dsm", 4433: "quic", 8001: "wss1", 8002: "wss2", 9090: "operations", 9091: "operations"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    certificate.write(folder)
    (folder / "tls.pem").write_bytes((folder / "tls.crt").read_bytes() + (folder / "tls.key").read_bytes())
    return folder


@pytest.fixture(params=["nginx", "haproxy"])
def platform(request, tmp_path_factory, folder):
    with ExitStack() as stack:
        redis = stack.enter_context(backends.redis(tmp_path_factory.mktemp("redis")))
        shared = {"REDIS_URL": redis, "DATABASE_URL": stack.enter_context(backends.postgres()), "TRUSTED_PROXIES": "127.0.0.1"}
        shared |= {"FORWARDED_HEADER": "x-forwarded-for", "RUST_LOG": "info", "TLS_CERT": str(folder / "tls.crt"), "TLS_KEY": str(folder / "tls.key")}
        nodes = {}
        for number in (1, 2):
            for name, variables in [(f"node{number}", {"ROLES": "ap,sm,dsm,ingest"}), (f"gateway{number}", {"program": GATEWAY})]:
                nodes[name] = Node(tmp_path_factory.mktemp(name), **variables, **shared)
                stack.callback(lambda node: node.process.poll() is None and node.stop(), nodes[name])
        yield stack.enter_context(Balancer(request.param, tmp_path_factory.mktemp(request.param), folder, nodes))


class Balancer:
    """A balancer with its example, whose names and ports are those of this test."""

    def __init__(self, kind, directory, folder, nodes):
        self.kind, self.nodes, self.log = kind, nodes, directory / f"{kind}.log"
        self.port, self.udp = backends.free_port(), backends.free_port()
        self.ca = str(folder / "ca.pem")
        self.trust = ssl.create_default_context(cafile=self.ca)
        text = (EXAMPLES / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]).read_text()
        text = re.sub(r"\b((?:node|gateway)\d):(\d+)( port (\d+))?", self.address, text).replace("/etc/motience", str(folder))
        for listening, port in [("listen 443 ", self.port), ("bind :443 ", self.port), ("listen 4433 ", self.udp)]:
            text = text.replace(listening, f"{listening.split()[0]} 127.0.0.1:{port} ")
        # This machine's limits, and no log of it.
        text = text.replace("maxconn 40000", "maxconn 1000").replace("http {\n", f"http {{\n    access_log off;\n    client_body_temp_path {directory}/body;\n")
        config = directory / "config"
        config.write_text(text)
        settings = f"daemon off; pid {directory}/pid; error_log {self.log} info;"
        commands = {"nginx": ["/usr/sbin/nginx", "-c", config, "-g", settings], "haproxy": ["/usr/sbin/haproxy", "-db", "-f", config]}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(commands[kind], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def address(self, found):
        name, port, _, check = found.groups()
        at = lambda number: self.nodes[name].at[SERVICES[int(number)]].rsplit(":", 1)[1].split("/")[0]  # noqa: E731
        return f"127.0.0.1:{at(port)}" + (f" port {at(check)}" if check else "")

    def __enter__(self):
        self.until("it answers for its nodes", lambda: self.ask("GET", "/ap/health")[0] == 200)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(START_LIMIT)

    def until(self, what, holds):
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                if holds():
                    return
            except OSError:
                pass
            assert self.process.poll() is None and time.monotonic() < deadline, f"{what}:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def open(self, method, path, body=None, token=None, source="127.0.0.1", **headers):
        """A request, whose answer is not read yet."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=START_LIMIT, context=self.trust, source_address=(source, 0))
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **headers})
        return connection.getresponse()

    def ask(self, *arguments, **more):
        answer = self.open(*arguments, **more)
        return answer.status, answer.read()


def stands(platform):
    """A producer, and a consumer that follows it, both made through the balancer; their tokens and the producer's id."""
    made = {}
    for role in ("producer", "consumer"):
        account = {"username": Node.name(role), "password": "pass123"}
        assert platform.ask("POST", "/ap/register", {**account, "role": role})[0] == 201
        status, answer = platform.ask("POST", "/ap/login", account)
        assert status == 200
        made[role] = json.loads(answer)
    producer = made["producer"]["user_id"]
    assert platform.ask("POST", "/sm/subscribe", {"producer_id": producer}, made["consumer"]["access_token"])[0] == 201
    return made["producer"]["access_token"], made["consumer"]["access_token"], producer


def test_what_a_balancer_must_not_break(platform, folder):
    up, down, producer = stands(platform)
    streams_are_not_held_back(platform, up, down, producer)
    clients_are_known_by_their_own_address(platform)
    asyncio.run(sockets_are_passed_on(platform, up))
    if platform.kind == "nginx":
        asyncio.run(devices_come_by_udp(platform, up))
    a_node_that_drains_is_not_missed(platform, up)


def streams_are_not_held_back(platform, up, down, producer):
    """A record arrives while the stream is open, whichever nodes the two requests reach."""
    lines = platform.open("GET", f"/dsm/stream?producers={producer}&from=live", token=down, Accept="application/x-ndjson")
    assert lines.status == 200
    assert json.loads(lines.readline())
    assert platform.ask("POST", "/dsm/data", RECORD, up)[0] == 200
    while "data" not in json.loads(lines.readline()):
        pass


def clients_are_known_by_their_own_address(platform):
    """The nodes see whom the balancer sees, and not whom the client claims to be."""
    forged = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    assert platform.ask("GET", "/ap/producers", token="none", source="127.0.0.5", **forged)[0] == 401
    logs = lambda: "".join(node.log.read_text() for node in platform.nodes.values())  # noqa: E731
    platform.until("the refusal is logged with the client's address", lambda: "127.0.0.5" in logs())
    assert "203.0.113.9" not in logs()


async def sockets_are_passed_on(platform, up):
    """Frames both ways through an upgraded connection."""
    async with tunnel(f"wss://127.0.0.1:{platform.port}/motience", platform.trust) as through:
        assert (await through.hello(up, "tunnelled", 1))["max_record"]
        await through.leave()


async def devices_come_by_udp(platform, up):
    async with motience1.connect(f"127.0.0.1:{platform.udp}", platform.ca) as connection:
        await connection.hello("produce", up, "by-udp", 1)
        connection.ordered(motience1.encode("Record", seq=1, json=json.dumps({**RECORD, "device_id": "by-udp"}).encode()))
        assert (await connection.control.expect("Ack"))["ranges"] == [[1, 1]]
        await connection.leave()


def a_node_that_drains_is_not_missed(platform, up):
    """One of two servers ends; no request fails, neither meanwhile nor afterwards."""
    platform.nodes["node1"].process.terminate()
    for _ in range(20):
        assert platform.ask("GET", "/ap/verify", token=up)[0] == 200
    platform.nodes["node1"].ended()
    for _ in range(20):
        assert platform.ask("GET", "/ap/verify", token=up)[0] == 200
