"""The programs of examples/ and device/examples, as a newcomer runs them, each against a real node."""

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from node import PASSWORD, ROOT, Node

EXAMPLES = ROOT / "examples"
DEVICE = os.environ.get("MOTIENCE_DEVICE_EXAMPLE", str(ROOT / "target/debug/examples/device"))
# Longest time for one of them, in seconds.
LIMIT = 60
# Each prints these: three records sent, two received, the third only after the consumer has resumed.
STEPS = ["subscribed", "sent", "sent", "received", "received", "sent", "resuming", "received"]
TEMPERATURES = ["20.5", "21.5", "22.5"]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder in which the TypeScript client is installed."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "node_modules/@motience").mkdir(parents=True)
    (folder / "node_modules/@motience/client").symlink_to(ROOT / "clients/ts")
    for script in EXAMPLES.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def places(node):
    """The addresses of a node, by the names that the examples know them by."""
    at = node.at
    urls = {f"{name.upper()}_URL": at[name] for name in ("ap", "sm", "dsm", "wss1", "wss2")}
    return {**os.environ, **urls, "AUTH_URL": at["ap"], "SERVER_URL": f"quic://{at['quic']}", "CA": at["ca"]}


def judge(lines):
    """A run printed every step in order; what was received is what was sent, once, and the last record came after the resume."""
    lines = [line for line in lines if line.split(" ")[0] in STEPS]
    assert [line.split(" ")[0] for line in lines] == STEPS, lines
    for kind in ("sent", "received"):
        texts = [line for line in lines if line.startswith(kind)]
        assert all(temperature in text for temperature, text in zip(TEMPERATURES, texts, strict=True)), texts


@pytest.mark.parametrize("example", ["curl.sh", "python.py", "node.mjs", "device"])
def test_an_example_sends_receives_and_resumes(node, packages, tmp_path, example):
    command = {
        "curl.sh": [str(EXAMPLES / "curl.sh")],
        "python.py": [sys.executable, str(EXAMPLES / "python.py")],
        "node.mjs": ["node", "node.mjs"],
        "device": [DEVICE],
    }[example]
    environment = {**places(node), "OUTBOX": str(tmp_path / "outbox")}
    run = subprocess.run(command, cwd=packages, env=environment, text=True, capture_output=True, timeout=LIMIT)
    assert run.returncode == 0, run.stdout + run.stderr
    judge(run.stdout.splitlines())


def test_the_page_sends_receives_and_resumes(node):
    page = (EXAMPLES / "browser.html").as_uri() + "?" + urlencode({name: node.at[name] for name in ("ap", "sm", "dsm")})
    script = str(Path(__file__).with_name("page.mjs"))
    run = subprocess.run(["node", script, page], env=os.environ, text=True, capture_output=True, timeout=LIMIT)
    assert run.returncode == 0, run.stdout + run.stderr
    judge(run.stdout.splitlines())


def eventually(holds):
    """Waits for a condition."""
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Printing:
    """A program that runs until it is stopped, and the lines that it prints."""

    def __init__(self, command, folder, environment):
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)

    def records(self, count):
        """The readings of the next records."""
        return [json.loads(self.lines.get(timeout=LIMIT))["data"] for _ in range(count)]

    def kill(self):
        self.process.kill()
        self.process.wait()


def test_a_consumer_survives_restarts_of_the_server_and_of_itself(packages, tmp_path):
    first = Node(tmp_path)
    producer, consumer = first.account("producer"), first.account("consumer")
    first.subscribe(consumer, producer)
    cursors = tmp_path / "cursors.json"
    environment = {**places(first), "MOTIENCE_USERNAME": consumer.username, "PASSWORD": PASSWORD, "CURSORS": str(cursors)}

    def send(node, n):
        node.post("dsm", "/data", {"device_id": "d", "data": {"n": n}}, producer.token)

    send(first, 1)
    running = Printing(["node", "consumer.mjs"], packages, environment)
    try:
        assert running.records(1) == [{"n": 1}]
        first.stop()
        ports = {f"{name.upper()}_PORT": str(urlsplit(first.at[name]).port) for name in ("ap", "sm", "dsm", "wss1", "wss2")}
        (tmp_path / "ready.json").unlink()
        second = Node(tmp_path, **ports)
        send(second, 2)
        assert running.records(1) == [{"n": 2}], "after a restart of the server"
        # Killed before it has written its cursor, it would print the record again.
        eventually(lambda: '-2"' in cursors.read_text())
        running.kill()
        send(second, 3)
        send(second, 4)
        running = Printing(["node", "consumer.mjs"], packages, environment)
        assert running.records(2) == [{"n": 3}, {"n": 4}], "after a restart of the consumer"
        assert running.lines.empty()
        second.stop()
    finally:
        running.kill()
