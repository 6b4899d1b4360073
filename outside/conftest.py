"""One node for all suites of this folder; those that end a node start their own."""

import pytest
from node import Node

# Autobahn's longest messages.
LONGEST = "16MiB"


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    running = Node(tmp_path_factory.mktemp("node"), MAX_RECORD_BYTES=LONGEST, WSS2_MAX_MESSAGE_BYTES=LONGEST)
    yield running
    running.stop()
