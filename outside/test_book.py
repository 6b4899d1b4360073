"""The commands of the book, each page as its reader types them, against a real node of its own.

Every block of a page that begins with ```sh or ```python is run, in order, in one shell; ```sh norun (reason) is not. A block of ```text or ```json
that follows is what the commands before it print, where `…` stands for anything; a line of it may leave out the end. The documented ports become the node's.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from node import GATEWAY, ROOT, SERVER, Node

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.S | re.M)
NORUN = re.compile(r" norun \(.+\)")
# Longest time for one page, in seconds.
LIMIT = 60
# Stands in the output where a block begins.
MARK = "==== block"
# How the book names what a node has on another port here.
PORTS = {"localhost:3001": "ap", "localhost:3002": "sm", "localhost:3003": "dsm", "localhost:9090": "operations"}
TREE = ("clients", "deploy", "device")
DEVICE = os.environ.get("MOTIENCE_DEVICE", str(ROOT / "target/debug/motience-device"))


def blocks(page):
    """The blocks of a page that are run, with what each is to print."""
    found = []
    after = False
    for kind, info, text in BLOCK.findall(page.read_text()):
        if kind in ("text", "json") and after:
            found[-1][2] = text
        after = kind in ("sh", "python") and not info
        if after:
            found.append([kind, text, None])
        elif kind in ("sh", "python"):
            assert NORUN.fullmatch(info), f"{page.name}: why is this block not run? ```{kind}{info}"
    return found


PAGES = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md")) if blocks(page)]


def script(found):
    """One script of a page's blocks."""
    # Jobs that a page leaves running end with it.
    yield "set -euo pipefail; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
    for number, (kind, text, _) in enumerate(found):
        # The answer before may not end with a line's end.
        yield f"printf '\\n{MARK} {number}\\n'"
        yield text if kind == "sh" else f"{sys.executable} - <<'PYTHON'\n{text}PYTHON"


def matches(expected, printed):
    """Whether lines were printed as the book has them: `…` is anything."""
    expected, printed = expected.splitlines(), printed.splitlines()
    patterns = [".*".join(map(re.escape, line.split("…"))) for line in expected]
    return len(printed) >= len(expected) and all(re.fullmatch(pattern, line) for pattern, line in zip(patterns, printed))


@pytest.fixture
def place(tmp_path):
    """A folder that looks like the repository, with programs built, in which a server runs."""
    (tmp_path / "bin").mkdir()
    for program in (SERVER, GATEWAY, DEVICE):
        (tmp_path / "bin" / Path(program).name).symlink_to(program)
    for name in TREE:
        (tmp_path / name).symlink_to(ROOT / name)
    # The examples install packages beside them.
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "examples/node_modules/@motience").mkdir(parents=True)
    (tmp_path / "examples/node_modules/@motience/client").symlink_to(ROOT / "clients/ts")
    node = Node(tmp_path, CERTS_DIR=str(tmp_path / "certs/dev"))
    yield node
    node.stop()


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_do_what_it_says(place, name):
    found = blocks(DOCS / name)
    text = "\n".join(script(found))
    for port, service in PORTS.items():
        text = text.replace(port, place.at[service].removeprefix("http://"))
    at = place.at
    environment = {
        **place.environment,
        **{f"{name.upper()}_URL": at[name] for name in ("ap", "sm", "dsm", "wss1", "wss2")},
        "PATH": f"{place.directory / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "AUTH_URL": at["ap"],
        "SERVER_URL": f"quic://{at['quic']}",
        "HEALTHCHECK_ADDRESS": at["operations"].removeprefix("http://"),
    }
    run = subprocess.run(["bash", "-c", text], cwd=place.directory, env=environment, text=True, capture_output=True, timeout=LIMIT)
    printed = dict(re.findall(rf"^{MARK} (\d+)\n(.*?)(?=^{MARK} |\Z)", run.stdout, re.S | re.M))
    assert run.returncode == 0, f"{name} stopped in\n{found[len(printed) - 1][1]}\n{run.stdout}\n{run.stderr}"
    for number, (_, commands, expected) in enumerate(found):
        if expected is not None:
            assert matches(expected, printed[str(number)]), f"{name}: {commands}\nprinted\n{printed[str(number)]}\nand not\n{expected}"


def test_what_a_block_prints_is_compared():
    assert matches("a … c\n", "a b c\nmore\n")
    assert not matches("a … c\n", "a b d\n")
    assert not matches("a\nb\n", "a\n")
