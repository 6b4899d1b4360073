"""Chromium, driven by playwright-core: HTTP/3, and WebTransport consuming and producing. `browser.mjs` is what it does."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from node import PASSWORD

SCENARIOS = ("http3", "alt-svc", "consume", "produce", "close")
# Longest time for one of them, in seconds.
LIMIT = 90


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_chromium(node, scenario):
    producer, consumer = node.account("producer"), node.account("consumer")
    node.subscribe(consumer, producer)
    people = {role: {**vars(account), "password": PASSWORD} for role, account in (("producer", producer), ("consumer", consumer))}
    command = ["node", str(Path(__file__).with_name("browser.mjs")), scenario, json.dumps({**node.at, **people})]
    run = subprocess.run(command, env=os.environ, text=True, capture_output=True, timeout=LIMIT)
    assert run.returncode == 0, run.stdout + run.stderr
