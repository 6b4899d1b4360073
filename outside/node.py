"""Real nodes for the tests: each on free ports, in a folder and an environment of its own."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from itertools import count
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER = os.environ.get("MOTIENCE_SERVER", str(ROOT / "target/debug/motience-server"))
GATEWAY = os.environ.get("MOTIENCE_GATEWAY", str(ROOT / "target/debug/motience-gateway"))
PORTS = ("AP", "SM", "DSM", "WSS1", "WSS2", "WSS1_UI", "WSS2_UI", "QUIC", "HTTPS", "OPERATIONS")
RATES = ("REGISTER", "REGISTER_ACCOUNT", "LOGIN", "LOGIN_ACCOUNT", "LOGIN_STRANGERS", "REFRESH", "REFRESH_LOGIN", "REFRESH_ACCOUNT", "LOGOUT", "REQUESTS", "HISTORY", "CONTROL")
PASSWORD = "pass123"
# Longest waits for a node to start and to end, in seconds.
START_LIMIT, STOP_LIMIT = 60, 15

numbers = count(1)


@dataclass(frozen=True)
class Account:
    """A logged-in account."""

    id: int
    username: str
    token: str
    refresh: str


class Node:
    """A server, embedded and with every role unless the variables say otherwise. Every server has to end cleanly when asked."""

    def __init__(self, directory, program=SERVER, **variables):
        ready = directory / "ready.json"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "RUST_LOG": os.environ.get("TEST_LOG", "warn"),
            "BIND_ADDRESS": "127.0.0.1",
            "DATA_DIR": str(directory / "data"),
            "CERTS_DIR": str(directory / "certs"),
            "JWT_SECRET": "the tests' own secret, of more than 32 bytes",
            "PERSIST": "true",
            # One client stands for many here.
            "MAX_REQUESTS_PER_ACCOUNT": "10000",
            "MAX_CONNECTIONS_PER_ACCOUNT": "1000",
            "CONTROL_FRAMES_PER_SECOND": "100000",
            # The suites ask faster than any limit of attempts allows; the limits have tests of their own.
            **{f"RATE_LIMIT_{name}": "off" for name in RATES},
            **{f"{name}_PORT": "0" for name in PORTS},
            **variables,
        }
        self.directory, self.environment = directory, environment
        self.log = directory / "server.log"
        with self.log.open("w", encoding="utf-8") as log:
            command = [program, "--ready-file", str(ready)]
            self.process = subprocess.Popen(command, cwd=directory, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"the server was not ready within {START_LIMIT} s:\n{self.log.read_text()}")
            time.sleep(0.05)
        self.at = json.loads(ready.read_text())

    def stop(self):
        """SIGTERM, and what the server said if that is not the end of it."""
        self.process.send_signal(signal.SIGTERM)
        self.ended()

    def ended(self):
        """Waits until it has ended by itself."""
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert code == 0, f"the server did not end cleanly within {STOP_LIMIT} s of SIGTERM: {code}\n{self.log.read_text()}"

    def account(self, role):
        """Makes an account and logs in, as any client would; an operator is made by the program."""
        username = self.name(role)
        if role == "admin":
            self.command("admin", "create", "--username", username, text=PASSWORD)
        else:
            self.post("ap", "/register", {"username": username, "password": PASSWORD, "role": role})
        login = self.post("ap", "/login", {"username": username, "password": PASSWORD})
        return Account(login["user_id"], username, login["access_token"], login["refresh_token"])

    def command(self, *arguments, text=""):
        """Runs the program with the node's settings, as whoever has its database can."""
        command = [SERVER, *arguments]
        subprocess.run(command, cwd=self.directory, env=self.environment, input=text + "\n", text=True, check=True, capture_output=True, timeout=START_LIMIT)

    @staticmethod
    def name(kind):
        """A name that nobody has."""
        return f"{kind}-{next(numbers)}"

    def subscribe(self, consumer, producer):
        """Has a consumer follow a producer."""
        self.post("sm", "/subscribe", {"producer_id": producer.id}, consumer.token)

    def post(self, service, path, body, token=None):
        """The answer of a service to a JSON body; raises where it refuses."""
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        request = urllib.request.Request(self.at[service] + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=START_LIMIT) as answer:
            return json.load(answer)
