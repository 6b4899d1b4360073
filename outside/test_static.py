"""The static programs of scripts/package in roots that have nothing but them: no loader, no C library, no shell. Those for ARM run under qemu.

Run by `scripts/test cross`, which builds them: the tests wait for that build. MOTIENCE_STATIC names the architectures, all by default; without the
server's, the agents send to the server of the other tests.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.request

import certificate
import pytest
from names import ADDRESS, Names
from node import PASSWORD, PORTS, ROOT, START_LIMIT, Node
from scratch import CHROOT, Root

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="chroot and port 53 ask for root")
EMULATORS = {"amd64": [], "arm64": ["qemu-aarch64-static"], "armhf": ["qemu-arm-static"]}
# The oldest processors that people have.
PROCESSORS = {"amd64": {}, "arm64": {"QEMU_CPU": "cortex-a53"}, "armhf": {"QEMU_CPU": "cortex-a7"}}
CHOSEN = os.environ.get("MOTIENCE_STATIC", ",".join(EMULATORS)).split(",")
ARM = [architecture for architecture in CHOSEN if architecture != "amd64"]
SERVER_NAME = "server.motience.test"


class Empty:
    """A root with the programs of a tarball, name service, and whom to trust."""

    def __init__(self, folder, made, architecture):
        self.folder = folder
        with tarfile.open(next(made.glob(f"*-linux-{architecture}.tar.gz"))) as archive:
            archive.extractall(folder / "unpacked", filter="data")
        [self.unpacked] = (folder / "unpacked").iterdir()
        for program in (self.unpacked / "bin").iterdir():
            shutil.copy(program, folder)
        (folder / "etc/ssl/certs").mkdir(parents=True)
        (folder / "etc/resolv.conf").write_text(f"nameserver {ADDRESS}\n")
        (folder / "tmp").mkdir(mode=0o1777)
        self.before, self.environment = [CHROOT, str(folder)], PROCESSORS[architecture]
        for emulator in EMULATORS[architecture]:
            shutil.copy(shutil.which(emulator), folder)
            self.before.append(f"/{emulator}")

    def command(self, program, *arguments):
        return [*self.before, f"/{program}", *arguments]

    def run(self, program, *arguments):
        return subprocess.run(self.command(program, *arguments), env=self.environment, capture_output=True, text=True, timeout=START_LIMIT)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority")
    certificate.write(folder, SERVER_NAME)
    return folder


@pytest.fixture(scope="module")
def names():
    names = Names(SERVER_NAME)
    yield names
    names.close()


class Serving(Node):
    """A static server in an empty root."""

    def __init__(self, empty, authority):
        for name in ("tls.crt", "tls.key"):
            shutil.copy(authority / name, empty.folder / "tmp")
        tls = {"TLS_CERT": "/tmp/tls.crt", "TLS_KEY": "/tmp/tls.key"}
        ports = {f"{name}_PORT": "0" for name in PORTS}
        environment = {**tls, **ports, "BIND_ADDRESS": "127.0.0.1", "DATA_DIR": "/tmp/data", "JWT_SECRET": "x" * 40}
        self.log, self.directory = empty.folder / "server.log", empty.folder
        with self.log.open("w") as log:
            command = empty.command("motience-server", "--ready-file", "/tmp/ready.json")
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        ready, deadline = empty.folder / "tmp/ready.json", time.monotonic() + START_LIMIT
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.at = json.loads(ready.read_text())


@pytest.fixture(scope="module")
def server(tmp_path_factory, static, authority):
    folder = tmp_path_factory.mktemp("server")
    if "amd64" in CHOSEN:
        serving = Serving(Empty(folder, static, "amd64"), authority)
    else:
        serving = Node(folder, TLS_CERT=str(authority / "tls.crt"), TLS_KEY=str(authority / "tls.key"))
    yield serving
    serving.stop()


@pytest.mark.parametrize("architecture", CHOSEN)
def test_a_tarball_has_programs_that_start_where_nothing_else_is(static, tmp_path, architecture):
    empty = Empty(tmp_path, static, architecture)
    programs = sorted(path.name for path in (empty.unpacked / "bin").iterdir())
    assert programs == (["motience-device"] if architecture in ARM else ["motience-device", "motience-gateway", "motience-server"])
    for program in programs:
        said = empty.run(program, "--version")
        assert re.fullmatch(rf"{program} [\d.]+ \(commit \w{{12}}, features: none\)\n", said.stdout), said.stderr
    if "motience-gateway" in programs:
        refused = empty.run("motience-gateway", "--check-config", "--offline")
        assert refused.returncode == 78 and "REDIS_URL" in refused.stderr
    units = {path.name for path in (empty.unpacked / "systemd").iterdir()}
    assert units == ({"motience-device.service"} if architecture in ARM else {path.name for path in (ROOT / "deploy/systemd").iterdir()})


@pytest.mark.parametrize("architecture", CHOSEN)
def test_a_static_agent_sends_a_record_to_a_static_server(static, server, authority, names, tmp_path, architecture):
    """The agent asks the name server for the name, and trusts the certificates of its root."""
    empty = Empty(tmp_path, static, architecture)
    shutil.copy(authority / "ca.pem", empty.folder / "etc/ssl/certs/ca-certificates.crt")
    producer, consumer = server.account("producer"), server.account("consumer")
    server.subscribe(consumer, producer)
    quic, https = (re.sub(r"^.*:", "", server.at[name]) for name in ("quic", "https"))
    (empty.folder / "readings.jsonl").write_text('{"temperature": 21.5}\n')
    (empty.folder / "device.toml").write_text(
        f'device_id = "{architecture}"\nusername = "{producer.username}"\npassword = "{PASSWORD}"\nstate_dir = "/tmp/state"\n'
        f'status_file = "/tmp/status.json"\nauth_url = "https://{SERVER_NAME}:{https}"\nserver_url = "quic://{SERVER_NAME}:{quic}"\n'
        '[[sensors]]\nkind = "file"\npath = "/readings.jsonl"\nfrom_start = true\n'
    )
    names.asked.clear()
    with (empty.folder / "agent.log").open("w") as log:
        command = empty.command("motience-device", "--config", "/device.toml")
        agent = subprocess.Popen(command, env=empty.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        head = {"Authorization": f"Bearer {consumer.token}", "Accept": "application/x-ndjson"}
        request = urllib.request.Request(f"{server.at['dsm']}/stream?producers={producer.id}&from=earliest", headers=head)
        deadline, record = time.monotonic() + START_LIMIT, {}
        with urllib.request.urlopen(request, timeout=START_LIMIT) as lines:
            while "data" not in record:
                assert agent.poll() is None and time.monotonic() < deadline, (empty.folder / "agent.log").read_text()
                record = json.loads(lines.readline())
    finally:
        agent.terminate()
        code = agent.wait(START_LIMIT)
    assert (record["device_id"], record["data"]) == (architecture, {"temperature": 21.5})
    assert code == 0 and names.asked == {SERVER_NAME}, (empty.folder / "agent.log").read_text()


@pytest.mark.parametrize("architecture", ARM)
def test_a_package_for_arm_installs_the_program_of_the_tarball(static, tmp_path_factory, architecture):
    folder = tmp_path_factory.mktemp("root")
    [package] = static.glob(f"motience-agent_*_{architecture}.deb")
    root = Root(folder)
    root.dpkg("--force-architecture", "--install", package)
    control = root.dpkg("--status", "motience-agent")
    assert f"\nArchitecture: {architecture}\n" in control and "\nDepends: passwd\n" in control
    program = folder / "usr/bin/motience-device"
    empty = Empty(tmp_path_factory.mktemp("empty"), static, architecture)
    assert program.read_bytes() == (empty.folder / "motience-device").read_bytes()
    assert "motience-device:" in (folder / "etc/passwd").read_text()
