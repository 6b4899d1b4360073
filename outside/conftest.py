"""One node for all suites of this folder; those that end a node start their own."""

import os
import subprocess
from pathlib import Path

import machine
import pytest
from node import ROOT, SERVER, Node

# Autobahn's longest messages.
LONGEST = "16MiB"


def pytest_collection_finish(session):
    if not machine.possible() and any(item.path.name == "test_machine.py" for item in session.items):
        session.config.debian = machine.Debian()


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    running = Node(tmp_path_factory.mktemp("node"), MAX_RECORD_BYTES=LONGEST, WSS2_MAX_MESSAGE_BYTES=LONGEST)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The packages and the image for this machine, with the programs of the tests in them."""
    return packed(tmp_path_factory, "--only", "native", "--binaries", Path(SERVER).parent)


@pytest.fixture(scope="session")
def static(tmp_path_factory):
    """The packages and tarballs of static programs, for the architectures of MOTIENCE_STATIC; built by the script."""
    return packed(tmp_path_factory, "--only", os.environ.get("MOTIENCE_STATIC", "amd64,arm64,armhf"), "--profile", "static-test")


def packed(tmp_path_factory, *arguments):
    out = tmp_path_factory.mktemp("packages") / "out"
    environment = {**os.environ, "DEBEMAIL": "packages@motience.io"}
    subprocess.run([ROOT / "scripts/package", "--fast", "--out", out, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    return out
