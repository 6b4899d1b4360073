"""A private PostgreSQL and a private Redis, for nodes that form a platform."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

# Longest wait for a server to answer, and to end, in seconds.
LIMIT = 30


def free_port():
    """A port of the loopback that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


@contextmanager
def served(command, port, log, **options):
    """A server that runs from the moment it takes connections on its port."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
    try:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, f"{command[0]} does not answer:\n{log.read_text()}"
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(LIMIT)


@contextmanager
def redis(directory):
    """The address of a Redis as operators should have it: it keeps an append-only file and evicts nothing."""
    port = free_port()
    settings = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--appendonly", "yes", "--maxmemory", "64mb"]
    with served(["redis-server", *settings, "--maxmemory-policy", "noeviction"], port, directory / "redis.log"):
        yield f"redis://127.0.0.1:{port}"


@contextmanager
def postgres():
    """The address of an empty database."""
    with database(lambda programs, data: [programs / "initdb", "--username", "postgres", "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C", "-D", data]) as url:
        yield url


@contextmanager
def replica(primary):
    """The address of a replica of that database, which streams from it."""
    place = urlsplit(primary)
    copy = ["--host", place.hostname, "--port", str(place.port), "--username", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    with database(lambda programs, data: [programs / "pg_basebackup", *copy, "--pgdata", data]) as url:
        yield url


@contextmanager
def database(make):
    """A server whose folder a command makes. PostgreSQL refuses to run as root, so that it then runs as the account of its package."""
    account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    programs = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("postgres") or "/usr/bin/postgres").parent]
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="motience-postgres-") as folder:
        if account:
            shutil.chown(folder, "postgres", "postgres")
        data = f"{folder}/data"
        subprocess.run(make(programs[0], data), cwd=folder, check=True, capture_output=True, timeout=LIMIT, **account)
        command = [programs[0] / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        # The log is opened here, where the account may write.
        with served(command, port, Path(folder) / "log", cwd=folder, **account):
            yield f"postgres://postgres@127.0.0.1:{port}/postgres?sslmode=disable"
