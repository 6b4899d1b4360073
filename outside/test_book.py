"""The commands of the book and of the README, each page as its reader types them, against a real node of its own.

Every block of a page that begins with ```sh, ```bash or ```python is run, in order, in one shell; ```sh norun (reason) is not. A comment that begins with
`<!-- test` holds commands that make what a page speaks of. A block of ```text or ```json that follows at once is the output of the commands before it,
where `…` stands for anything. A block of ```js is one of examples/, which test_examples.py runs, or says why it is not run. The documented ports become the node's, and a stream that has no end (`curl -N`) ends after two seconds.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from backends import postgres, redis
from node import GATEWAY, ROOT, SERVER, Node

BLOCK = re.compile(r"^(?:```|<!-- )(\w+)([^\n]*)\n(.*?)^(?:```|-->)$", re.S | re.M)
RUN = ("sh", "bash", "python", "test")
PROGRAMS = ("js", "ts", "rust")
EXAMPLE = re.compile(r"\{\{#include (?:\.\./)+examples/[\w.]+\}\}\n")
NORUN = re.compile(r" norun \(.+\)")
# Longest time for one page, in seconds.
LIMIT = 60
# Comes before the commands of a page. Jobs that a page leaves running end with it.
HEAD = """set -euo pipefail
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
curl() { if [[ " $* " == *" -N "* ]]; then command curl --max-time 2 "$@" || [[ $? == 28 ]]; else command curl "$@"; fi; }
"""
# Stands in the output where a block begins.
MARK = "==== block"
# How the book names what a node has on another port here.
PORTS = {"localhost:3001": "ap", "localhost:3002": "sm", "localhost:3003": "dsm", "localhost:9090": "operations"}
# The page whose commands need the stores of a cluster.
CLUSTER = "docs/guides/cluster.md"
TREE = ("clients", "deploy", "device")
DEVICE = os.environ.get("MOTIENCE_DEVICE", str(ROOT / "target/debug/motience-device"))


def blocks(name):
    """The blocks of a page that are run, each with the output that it is to have."""
    text = (ROOT / name).read_text()
    if name == "README.md":
        # The other sections build and measure.
        text = text.partition("\n## Send and receive your first record\n")[2].partition("\n## ")[0]
        text = re.sub(r"^```bash(?=\n(?:cargo |MOTIENCE_USERNAME=))", "```bash norun (runs until it is stopped)", text, flags=re.M)
    found = []
    # Where the last block that is run ended.
    end = None
    for block in BLOCK.finditer(text):
        kind, info, content = block.groups()
        if kind in ("text", "json") and end is not None and not text[end : block.start()].strip():
            found[-1][2] = content
        end = None
        if kind in RUN and not info:
            found.append([kind, content, None])
            end = block.end()
        elif kind in RUN:
            assert NORUN.fullmatch(info), f"{name}: why is this block not run? ```{kind}{info}"
        elif kind in PROGRAMS and not NORUN.fullmatch(info):
            assert EXAMPLE.fullmatch(content), f"{name}: put it into examples/, or say why it is not run: ```{kind}{info}"
    return found


PAGES = [name for name in ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))] if blocks(name)]


def script(found):
    """One script of a page's blocks."""
    yield HEAD
    for number, (kind, text, _) in enumerate(found):
        # The answer before may not end with a line's end.
        yield f"printf '\\n{MARK} {number}\\n'"
        yield text if kind != "python" else f"{sys.executable} - <<'PYTHON'\n{text}PYTHON"


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
    found = blocks(name)
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
    with ExitStack() as stack:
        if name == CLUSTER:
            environment["REDIS_URL"] = stack.enter_context(redis(place.directory))
            environment["DATABASE_URL"] = stack.enter_context(postgres())
        judge(name, found, text, place.directory, environment)


def judge(name, found, text, folder, environment):
    """Runs a page's commands, and compares what they print."""
    run = subprocess.run(["bash", "-c", text], cwd=folder, env=environment, text=True, capture_output=True, timeout=LIMIT)
    printed = dict(re.findall(rf"^{MARK} (\d+)\n(.*?)(?=^{MARK} |\Z)", run.stdout, re.S | re.M))
    assert run.returncode == 0, f"{name} stopped in\n{found[len(printed) - 1][1]}\n{run.stdout}\n{run.stderr}"
    for number, (_, commands, expected) in enumerate(found):
        if expected is not None:
            assert matches(expected, printed[str(number)]), f"{name}: {commands}\nprinted\n{printed[str(number)]}\nand not\n{expected}"


def test_what_a_block_prints_is_compared():
    assert matches("a … c\n", "a b c\nmore\n")
    assert not matches("a … c\n", "a b d\n")
    assert not matches("a\nb\n", "a\n")
