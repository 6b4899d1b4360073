"""HAProxy and nginx pass TCP on to a server and a gateway, and name the client by the PROXY protocol."""

import asyncio
import http.client
import ssl
import subprocess
import time

import backends
import certificate
import pytest
from motience1_tunnel import tunnel
from node import START_LIMIT, Node

HAPROXY = """
defaults
    mode tcp
    timeout connect 2s
    timeout client 90s
    timeout server 90s
"""
HAPROXY_PORT = """
listen {name}
    bind 127.0.0.1:{port}
    server node {node} {header}
"""
# nginx sends version 1 only.
NGINX = """
include /etc/nginx/modules-enabled/*.conf;
events {{}}
stream {{
    proxy_protocol on;
    {servers}
}}
"""
NGINX_PORT = "server {{ listen 127.0.0.1:{port}; proxy_pass {node}; }}"


class Balancer:
    """A balancer in front of a node: ports of its own for plain HTTP, HTTPS and the WebSockets."""

    def __init__(self, kind, directory, node):
        self.kind, self.log = kind, directory / "log"
        behind = {name: node.at[name].split("://")[1].split("/")[0] for name in ("ap", "https", "wss1")}
        self.ports = {name: backends.free_port() for name in behind}
        if kind == "nginx":
            servers = "\n".join(NGINX_PORT.format(port=self.ports[name], node=at) for name, at in behind.items())
            text = NGINX.format(servers=servers)
        else:
            text = HAPROXY + "".join(HAPROXY_PORT.format(name=name, port=self.ports[name], node=at, header=kind) for name, at in behind.items())
        config = directory / "config"
        config.write_text(text)
        settings = f"daemon off; pid {directory}/pid; error_log {self.log} info;"
        command = ["/usr/sbin/nginx", "-c", config, "-g", settings] if kind == "nginx" else ["/usr/sbin/haproxy", "-db", "-f", config]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                if self.ask("ap", "127.0.0.1") == 401:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(START_LIMIT)

    def ask(self, service, source, trust=None):
        """The status of a request with a bad token, which a node notes with its client's address."""
        kind, options = (http.client.HTTPSConnection, {"context": trust}) if trust else (http.client.HTTPConnection, {})
        connection = kind("127.0.0.1", self.ports[service], timeout=START_LIMIT, source_address=(source, 0), **options)
        connection.request("GET", "/ap/producers" if trust else "/producers", headers={"Authorization": "Bearer none"})
        return connection.getresponse().status


@pytest.mark.parametrize("kind", ["nginx", "send-proxy", "send-proxy-v2"])
def test_a_balancer_that_passes_tcp_on_names_the_client(kind, tmp_path):
    certificate.write(tmp_path)
    trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    variables = {"PROXY_PROTOCOL_FROM": "127.0.0.1", "RUST_LOG": "info", "TLS_CERT": str(tmp_path / "tls.crt"), "TLS_KEY": str(tmp_path / "tls.key")}
    node = Node(tmp_path, **variables)
    try:
        with Balancer(kind, tmp_path, node) as balancer:
            for source, service in [("127.0.0.5", "ap"), ("127.0.0.6", "https")]:
                deadline = time.monotonic() + START_LIMIT
                # A node notes one refusal of a kind in a second.
                while source not in node.log.read_text():
                    assert time.monotonic() < deadline, f"{source} is not in the log:\n{node.log.read_text()}"
                    assert balancer.ask(service, source, trust if service == "https" else None) == 401
                    time.sleep(0.2)
            node.at["ap"] = f"http://127.0.0.1:{balancer.ports['ap']}"
            asyncio.run(a_socket_is_passed_on(balancer, node.account("producer").token))
        # Without a balancer that says whom it speaks for there is no connection.
        with pytest.raises((OSError, http.client.HTTPException)):
            direct = http.client.HTTPConnection(node.at["dsm"].split("://")[1], timeout=START_LIMIT)
            direct.request("GET", "/health")
            direct.getresponse()
    finally:
        node.stop()


async def a_socket_is_passed_on(balancer, token):
    """Frames both ways through an upgraded connection."""
    async with tunnel(f"ws://127.0.0.1:{balancer.ports['wss1']}/motience") as through:
        assert (await through.hello(token, "tunnelled", 1))["max_record"]
        await through.leave()
