"""The .deb of the server, of the gateway and of the agent."""

import gzip
import os
import re
import subprocess
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from . import elf
from .release import ROOT

SOURCE = ROOT / "deploy/debian"
# Who answers for the packages: whoever makes them says so, in the variables of Debian's own tools.
MAINTAINER = f"{os.environ.get('DEBFULLNAME', 'Motience')} <{os.environ.get('DEBEMAIL', 'packages@motience.invalid')}>"


@dataclass(frozen=True)
class Package:
    """One package: its program, the account of its service, its conffile, and what else it carries."""

    name: str
    program: str
    # The account's name, and the folder's below /var/lib.
    user: str
    state: str
    summary: str
    text: str
    # Path in /etc/motience, and in the tree.
    conffile: tuple
    documents: tuple

    @property
    def unit(self):
        return f"{self.program}.service"


PACKAGES = (
    Package(
        "motience-server",
        "motience-server",
        "motience",
        "motience",
        "streaming platform for devices on bad networks",
        "Accounts, subscriptions, records and history over HTTP, WebSocket, HTTP/3\nand WebTransport; devices over QUIC. "
        "One server with files of its own, or\nmany beside PostgreSQL and Redis.",
        ("server.env", "deploy/debian/server.env"),
        (".env.example", "docs/operators.md", "docs/security.md", "docs/metrics.md", "deploy/prometheus/rules.yml"),
    ),
    Package(
        "motience-gateway",
        "motience-gateway",
        "motience-gateway",
        "motience-gateway",
        "WebSocket gateway of the Motience platform",
        "Producers, consumers and tunnels of devices over WebSocket, as a process of\nits own beside servers that meet in PostgreSQL and Redis.",
        ("gateway.env", "deploy/debian/gateway.env"),
        (".env.example", "docs/operators.md", "docs/security.md"),
    ),
    Package(
        "motience-agent",
        "motience-device",
        "motience-device",
        "motience-device",
        "device agent of the Motience platform",
        "Reads sensors, keeps their records until the server has them, and sends\nthem over QUIC, or over WebSocket where UDP does not get through.",
        ("device.toml", "device/agent/motience-device.example.toml"),
        (),
    ),
)


def packages(release, programs, out, work):
    """Makes those of the programs."""
    for package in PACKAGES:
        if package.program not in programs:
            continue
        root = work / "debian" / release.architecture / package.name
        fill(root, package, release, programs[package.program])
        # Whatever the umask was.
        for folder in [root, *filter(Path.is_dir, root.rglob("*"))]:
            folder.chmod(0o755)
        made = out / f"{package.name}_{release.version}_{release.architecture}.deb"
        packing = ["-Zgzip", "-z1"] if release.fast else ["-Zxz"]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(release.time)}
        subprocess.run(["dpkg-deb", "--root-owner-group", *packing, "--build", root, made], check=True, stdout=subprocess.DEVNULL, env=environment)
        yield made


def fill(root, package, release, program):
    """Lays out the files as they will be installed."""
    put(root / "usr/bin" / package.program, program.read_bytes(), 0o755)
    put(root / "usr/lib/systemd/system" / package.unit, unit(package).encode())
    name, source = package.conffile
    # Secrets come into it.
    put(root / "etc/motience" / name, (ROOT / source).read_bytes(), 0o600)
    documents = root / "usr/share/doc" / package.name
    put(documents / "copyright", copyright_().encode())
    put(documents / "changelog.gz", gzip.compress(changelog(package, release).encode(), 9, mtime=0))
    for document in package.documents:
        put(documents / (ROOT / document).name.removeprefix("."), (ROOT / document).read_bytes())
    for script in ("postinst", "prerm", "postrm"):
        put(root / "DEBIAN" / script, told(package, (SOURCE / script).read_text()).encode(), 0o755)
    put(root / "DEBIAN/conffiles", f"/etc/motience/{name}\n".encode())
    put(root / "DEBIAN/control", control(package, release, program, root).encode())


def put(path, content, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def told(package, text):
    return text.replace("@USER@", package.user).replace("@STATE@", package.state).replace("@UNIT@", package.unit)


def unit(package):
    """The unit of deploy/systemd, with the package's program and account, without the words on how to install it by hand."""
    text = (ROOT / "deploy/systemd" / package.unit).read_text()
    text = re.sub(r"\A(#.*\n)+", "", text).replace("=/usr/local/bin/", "=/usr/bin/")
    return text.replace("DynamicUser=yes", f"User={package.user}\nGroup={package.user}")


def control(package, release, program, root):
    depends = ["passwd"]
    if libraries := elf.libraries(program):
        depends = [f"libc6 (>= {elf.glibc(program)})", *(["libgcc-s1"] if "libgcc_s.so.1" in libraries else []), *depends]
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    fields = {
        "Package": package.name,
        "Version": release.version,
        "Architecture": release.architecture,
        "Maintainer": MAINTAINER,
        "Installed-Size": str(size),
        "Depends": ", ".join(depends),
        "Recommends": "ca-certificates",
        "Section": "net",
        "Priority": "optional",
        "Description": f"{package.summary}\n " + package.text.replace("\n", "\n "),
    }
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


def copyright_():
    license_ = "".join(f" {line}\n" if line else " .\n" for line in (ROOT / "LICENSE").read_text().splitlines())
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: Motience\n\n"
    return f"{head}Files: *\nCopyright: the Motience authors\nLicense: Expat\n{license_}"


def changelog(package, release):
    entry = f"{package.name} ({release.version}) unstable; urgency=medium\n\n  * Commit {release.commit}. CHANGELOG.md of the sources has the changes.\n\n"
    return f"{entry} -- {MAINTAINER}  {formatdate(release.time)}\n"
