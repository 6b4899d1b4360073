"""The packages of scripts/package, as an operator takes them: dpkg installs them into an empty root, and their programs run there.

Run by `scripts/test release`, with the programs of the tests in the packages.
"""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tomllib
import urllib.request
from pathlib import Path

import certificate
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from node import PASSWORD, PORTS, ROOT, START_LIMIT, STOP_LIMIT, Node
from scratch import CHROOT, RUNC, Root, unit

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="dpkg and chroot ask for root")
# Package: program, account, folder of state, conffile.
PACKAGES = {
    "motience-server": ("motience-server", "motience", "motience", "server.env"),
    "motience-gateway": ("motience-gateway", "motience-gateway", "motience-gateway", "gateway.env"),
    "motience-agent": ("motience-device", "motience-device", "motience-device", "device.toml"),
}
# Programs without a page of manual, which --help replaces; settings with secrets; systemctl, which the scripts call where systemd runs.
LINTIAN = {"no-manual-page", "non-standard-file-perm", "maintainer-script-calls-systemctl"}


@pytest.fixture(scope="module")
def root(tmp_path_factory, made):
    """A root with all three packages installed."""
    # Not below pytest's folder, which its accounts could not enter.
    folder = tmp_path_factory.mktemp("root")
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o755)
    root = Root(folder)
    root.said = root.dpkg("--install", *sorted(made.glob("*.deb")))
    return root


def only(folder, pattern):
    [path] = folder.glob(pattern)
    return path


def test_checksums_are_of_all_files(made):
    listed = re.findall(r"^[0-9a-f]{64}  (.*)$", (made / "SHA256SUMS").read_text(), re.M)
    assert set(listed) == {path.name for path in made.iterdir()} - {"SHA256SUMS"}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=made, check=True)


def test_a_release_has_one_version_a_tag_and_a_section_of_the_changelog(tmp_path):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    assert json.loads((ROOT / "clients/ts/package.json").read_text())["version"] == version
    assert f"\n    newTag: {version}\n" in (ROOT / "deploy/kubernetes/base/kustomization.yaml").read_text()
    # A clone that is tagged: the script asks for the section, and calls the release by its version.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--local", ROOT, clone], check=True)
    for script in ROOT.glob("scripts/packaging/*.py"):
        shutil.copy(script, clone / "scripts/packaging")
    subprocess.run(["git", "-C", clone, "tag", f"v{version}"], check=True)
    asking = f"import sys; sys.path.insert(0, {str(clone / 'scripts')!r}); from packaging.release import Release; print(Release.of_tree(True).name)"
    changelog = clone / "CHANGELOG.md"
    changelog.write_text(re.sub(r"^## \[(?!Unreleased).*\n", "", changelog.read_text(), flags=re.M))
    refused = subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True)
    assert refused.returncode == 1 and f"CHANGELOG.md has no section [{version}]" in refused.stderr
    changelog.write_text(changelog.read_text().replace("## [Unreleased]\n", f"## [Unreleased]\n\n## [{version}] - 2026-11-26\n", 1))
    assert subprocess.run([sys.executable, "-c", asking], check=True, capture_output=True, text=True).stdout == f"motience-{version}\n"


def test_every_crate_and_the_client_say_what_they_are():
    described = subprocess.run(["cargo", "metadata", "--no-deps", "--locked", "--format-version", "1"], cwd=ROOT, check=True, capture_output=True)
    for crate in json.loads(described.stdout)["packages"]:
        fields = ("description", "license", "authors", "readme", "keywords", "categories", "rust_version")
        assert not [field for field in fields if not crate[field]], crate["name"]
    client = json.loads((ROOT / "clients/ts/package.json").read_text())
    assert all(client.get(field) for field in ("description", "license", "author", "keywords", "engines", "exports", "types", "files"))


def test_lintian_finds_nothing_else(made):
    # The smallest: all three are made in the same way.
    package = only(made, "motience-agent_*.deb")
    run = subprocess.run(["lintian", "--allow-root", package], capture_output=True, text=True)
    assert set(re.findall(r"^[EW]: motience-agent: (\S+)", run.stdout, re.M)) == LINTIAN, run.stdout + run.stderr


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_installs_a_program_a_unit_and_an_account_and_starts_nothing(root, name):
    program, user, state, conffile = PACKAGES[name]
    assert re.fullmatch(rf"{program} [\d.]+ \(commit \w+, features: [\w ]+\)\n", root.run(f"/usr/bin/{program}", "--version", user=user))
    assert root.run("/usr/bin/getent", "passwd", user).split(":")[5:] == [f"/var/lib/{state}", "/usr/sbin/nologin\n"]
    text, _, folder = unit(root.folder, f"{program}.service")
    assert folder == state and f"\nUser={user}\n" in text and f"\nExecStart=/usr/bin/{program}" in text and "DynamicUser" not in text
    assert (root.folder / "etc/motience" / conffile).stat().st_mode & 0o777 == 0o600
    # Nothing is enabled, and nothing was run.
    assert not list(root.folder.glob("etc/systemd/system/**/*.service")) and not (root.folder / "var/lib" / state).exists()
    control = root.dpkg("--status", name)
    assert re.search(r"^Depends: libc6 \(>= 2\.\d+\), libgcc-s1, passwd$", control, re.M) and f"/etc/motience/{conffile} " in control


@pytest.mark.parametrize("name", PACKAGES)
def test_units_are_well_formed(root, name):
    # systemd looks for the targets and for the programs in this root.
    target = root.folder / "usr/lib/systemd/system"
    for name_of_target in ("basic", "sysinit", "shutdown", "multi-user", "network", "network-online"):
        (target / f"{name_of_target}.target").write_text(f"[Unit]\nDescription={name_of_target}\n")
    command = ["systemd-analyze", "verify", "--man=no", f"--root={root.folder}", f"{PACKAGES[name][0]}.service"]
    verified = subprocess.run(command, capture_output=True, text=True)
    # Settings of systemd 254 and later; older ones pass over them.
    said = [line for line in verified.stderr.splitlines() if not re.search(r"Unknown key '(RestartSteps|RestartMaxDelaySec)'", line)]
    assert verified.returncode == 0 and not said, verified.stderr


def test_settings_outlive_an_upgrade_and_data_outlives_a_purge(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("upgrades")
    root = Root(folder)
    package = only(made, "motience-server_*.deb")
    root.dpkg("--install", package)
    settings, data = folder / "etc/motience/server.env", folder / "var/lib/motience/data/log.db"
    settings.write_text("JWT_SECRET=mine\n")
    data.parent.mkdir(parents=True)
    data.write_text("records")
    root.dpkg("--install", package)
    assert settings.read_text() == "JWT_SECRET=mine\n"
    root.dpkg("--remove", "motience-server")
    assert settings.exists() and not (folder / "usr/bin/motience-server").exists()
    assert "/var/lib/motience is kept" in root.dpkg("--purge", "motience-server")
    assert not settings.exists() and data.read_text() == "records"


class Service:
    """An installed program, run as its unit would run it: as its account, with the unit's variables and the conffile's."""

    post = Node.post

    def __init__(self, root, package, *arguments, **settings):
        program, user, state, conffile = PACKAGES[package]
        _, environment, _ = unit(root.folder, f"{program}.service")
        self.state = root.folder / "var/lib" / state
        self.state.mkdir(mode=0o700)
        root.own(f"var/lib/{state}", user)
        if conffile.endswith(".env"):
            (root.folder / "etc/motience" / conffile).write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
            environment |= dict(re.findall(r"^(\w+)=(.*)$", (root.folder / "etc/motience" / conffile).read_text(), re.M))
        environment |= {"STATE_DIRECTORY": f"/var/lib/{state}"}
        self.log = root.folder / f"{program}.log"
        with self.log.open("w") as log:
            command = root.command(f"/usr/bin/{program}", *arguments, user=user)
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def until(self, what, holds):
        deadline = time.monotonic() + START_LIMIT
        while not (found := holds()):
            assert self.process.poll() is None and time.monotonic() < deadline, f"{what}:\n{self.log.read_text()}"
            time.sleep(0.05)
        return found

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        assert failed or code == 0, self.log.read_text()


def test_a_record_gets_from_an_installed_agent_through_an_installed_server(root):
    folder = root.folder / "etc/motience/tls"
    folder.mkdir()
    certificate.write(folder)
    root.own("etc/motience/tls/tls.key", "motience")
    ports = {f"{name}_PORT": "0" for name in PORTS}
    tls = {"TLS_CERT": "/etc/motience/tls/tls.crt", "TLS_KEY": "/etc/motience/tls/tls.key"}
    secret = {"JWT_SECRET": "the secret of this installation, of more than 32 bytes"}
    with Service(root, "motience-server", "--ready-file", "/var/lib/motience/ready.json", BIND_ADDRESS="localhost", **secret, **tls, **ports) as server:
        ready = server.state / "ready.json"
        server.until("the server is ready", ready.exists)
        server.at = json.loads(ready.read_text())
        password = f"{PASSWORD}-of-a-good-length"
        accounts = {}
        for role in ("producer", "consumer"):
            server.post("ap", "/register", {"username": role, "password": password, "role": role})
            accounts[role] = server.post("ap", "/login", {"username": role, "password": password})
        producer, token = accounts["producer"]["user_id"], accounts["consumer"]["access_token"]
        server.post("sm", "/subscribe", {"producer_id": producer}, token)
        # The unit's LoadCredential hands the agent this file.
        sensor = '[[sensors]]\nkind = "command"\ncommand = ["cat", "/etc/motience/reading.json"]\ninterval_secs = 1\n'
        (root.folder / "etc/motience/reading.json").write_text('{"temperature": 21.5}\n')
        quic = re.sub(r"^.*:", "quic://localhost:", server.at["quic"])
        account = f'device_id = "d1"\nusername = "producer"\npassword = "{password}"\n'
        settings = f'{account}auth_url = "{server.at["ap"]}"\nserver_url = "{quic}"\nca = "/etc/motience/tls/ca.pem"\n{sensor}'
        (root.folder / "etc/motience/device.toml").write_text(settings)
        root.own("etc/motience/device.toml", "motience-device")
        with Service(root, "motience-agent", "--config", "/etc/motience/device.toml") as agent:
            head = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
            request = urllib.request.Request(f"{server.at['dsm']}/stream?producers={producer}&from=earliest", headers=head)
            with urllib.request.urlopen(request, timeout=START_LIMIT) as lines:
                # A line comes at least every 15 s, with or without a record.
                record = agent.until("a record", lambda: (line := json.loads(lines.readline())) and "data" in line and line)
        assert (record["device_id"], record["data"]["temperature"]) == ("d1", 21.5)


@pytest.fixture(scope="module")
def image(made, tmp_path_factory):
    """The image, unpacked as a runtime does it, and its configuration."""
    folder = tmp_path_factory.mktemp("image")
    with tarfile.open(only(made, "*-oci-*.tar")) as archive:
        archive.extractall(folder / "layout", filter="data")

    def blob(described):
        content = (folder / "layout/blobs/sha256" / described["digest"].removeprefix("sha256:")).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == described["digest"] and len(content) == described["size"]
        return content

    index = json.loads((folder / "layout/index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]))
    config, [layer] = json.loads(blob(manifest["config"])), manifest["layers"]
    plain = gzip.decompress(blob(layer))
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        assert not [member.name for member in archive if member.mode & 0o6000]
        archive.extractall(folder / "root", filter="tar", numeric_owner=True)
    return folder / "root", config["config"]


def test_the_image_refuses_to_start_without_a_secret_and_says_its_versions(image):
    root, run = image
    environment = dict(pair.split("=", 1) for pair in run["Env"])
    # Variables of the image, as a Dockerfile's reader knows them.
    assert {**environment, "PATH": ""} == {**environment, **dockerfile(), "PATH": ""}
    # As a runtime does: the user, the variables and the command of the configuration, and nothing of the machine's.
    before = [CHROOT, f"--userspec={run['User']}", str(root)]
    command = [*before, "/usr/local/bin/" + run["Cmd"][0]]
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=START_LIMIT)
    assert refused.returncode == 78 and "JWT_SECRET" in refused.stderr, refused.stderr
    for program in ("motience-server", "motience-gateway", "motience-device"):
        said = subprocess.run([*before, f"/usr/local/bin/{program}", "--version"], env=environment, capture_output=True, text=True, timeout=START_LIMIT)
        assert said.stdout.startswith(f"{program} "), said.stderr


def test_runc_runs_the_image_as_confined_as_a_pod(image, tmp_path):
    """No capability, a root that is read only, and the mounts that deploy/kubernetes has."""
    root, run = image
    subprocess.run([RUNC, "spec"], cwd=tmp_path, check=True)
    spec = json.loads((tmp_path / "config.json").read_text())
    for name in ("state", "secrets", "motience-tls"):
        (tmp_path / name).mkdir()
    uid, gid = map(int, run["User"].split(":"))
    os.chown(tmp_path / "state", uid, gid)
    (tmp_path / "secrets/jwt-secret").write_text("x" * 40)
    certificate.write(tmp_path / "motience-tls")
    (tmp_path / "motience-tls/tls.key").chmod(0o644)
    variables = {"JWT_SECRET_FILE": "/run/secrets/motience/jwt-secret", "BIND_ADDRESS": "localhost", **{f"{name}_PORT": "0" for name in PORTS}}
    variables |= {name: f"/run/secrets/motience-tls/tls.{end}" for name, end in (("TLS_CERT", "crt"), ("TLS_KEY", "key"))}
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": uid, "gid": gid},
        "args": [*run["Cmd"], "--ready-file", f"{run['WorkingDir']}/ready.json"],
        "env": [*run["Env"], *(f"{name}={value}" for name, value in variables.items())],
        "cwd": run["WorkingDir"],
        "capabilities": {},
        "rlimits": [],
    }
    spec["root"] = {"path": str(root), "readonly": True}
    mounts = {run["WorkingDir"]: ("state", "rw"), "/run/secrets/motience": ("secrets", "ro"), "/run/secrets/motience-tls": ("motience-tls", "ro")}
    spec["mounts"] += [{"destination": at, "type": "bind", "source": str(tmp_path / name), "options": ["rbind", mode]} for at, (name, mode) in mounts.items()]
    # The test asks the server on this machine's loopback.
    spec["linux"]["namespaces"] = [namespace for namespace in spec["linux"]["namespaces"] if namespace["type"] != "network"]
    (tmp_path / "config.json").write_text(json.dumps(spec))
    command = [RUNC, "--root", tmp_path / "runc", "run", "--bundle", tmp_path, f"motience-{os.getpid()}"]
    serving = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    ready, deadline = tmp_path / "state/ready.json", time.monotonic() + START_LIMIT
    while not ready.exists():
        assert serving.poll() is None and time.monotonic() < deadline, serving.stderr.read()
        time.sleep(0.05)
    with urllib.request.urlopen(json.loads(ready.read_text())["operations"] + "/ready", timeout=START_LIMIT) as answer:
        assert answer.status == 200
    # The runtime hands the signal on.
    serving.send_signal(getattr(signal, run["StopSignal"]))
    assert serving.wait(START_LIMIT) == 0, serving.stderr.read()


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_skopeo_takes_the_image(made, tmp_path, form):
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", f"{form}:{only(made, '*-oci-*.tar')}", f"dir:{tmp_path}"]
    subprocess.run(copy, check=True, timeout=START_LIMIT)
    assert (tmp_path / "manifest.json").exists()


def dockerfile():
    """The variables that deploy/Dockerfile sets."""
    [line] = re.findall(r"^ENV (.*)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    return dict(pair.split("=", 1) for pair in line.split())


def test_a_bill_of_materials_names_every_crate_once_with_its_hash(made):
    lock = {(package["name"], package["version"]): package.get("checksum") for package in tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]}
    names = {}
    for path in made.glob("*.cdx.json"):
        bill = json.loads(path.read_text())
        assert bill["specVersion"] == "1.5" and not JsonStrictValidator(SchemaVersion.V1_5).validate_str(path.read_text())
        components = [*bill["components"], bill["metadata"]["component"]]
        refs = [component["bom-ref"] for component in components]
        assert len(set(refs)) == len(refs) > 100
        assert {entry["ref"] for entry in bill["dependencies"]} == set(refs)
        assert {on for entry in bill["dependencies"] for on in entry["dependsOn"]} == set(refs) - {components[-1]["bom-ref"]}
        for component in bill["components"]:
            hashes = [each["content"] for each in component.get("hashes", [])]
            assert hashes == [lock[component["name"], component["version"]]] or component["name"].startswith("motience-"), component
            assert component["licenses"], component
        # The schema does find mistakes.
        assert JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps({**bill, "components": [{"type": "crate", "name": "none"}]}))
        names[components[-1]["name"]] = {component["name"] for component in bill["components"]}
    assert "sqlx" in names["motience-server"] and "quinn" in names["motience-device"]
    assert not {"sqlx", "redis", "motience-store"} & names["motience-device"]
