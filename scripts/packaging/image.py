"""An OCI image from scratch: the programs, the libraries they are linked with, who may run them, and whom they trust.

The archive is an OCI layout (podman, skopeo, containerd, Docker 25 and later) that also has the manifest of older `docker load`.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

from . import elf

USER = 10001
STATE = "var/lib/motience"
TRUST = Path("/etc/ssl/certs/ca-certificates.crt")
# As deploy/Dockerfile has them.
ENVIRONMENT = {
    "PATH": "/usr/local/bin",
    "MOTIENCE_ENV": "production",
    "BIND_ADDRESS": "0.0.0.0",
    "DATA_DIR": f"/{STATE}/data",
    "CERTS_DIR": f"/{STATE}/certs",
    "LOG_FORMAT": "json",
    "SSL_CERT_FILE": str(TRUST),
}
PORTS = ["3001/tcp", "3002/tcp", "3003/tcp", "8001/tcp", "8002/tcp", "3010/tcp", "3011/tcp", "9090/tcp", "9091/tcp", "4433/tcp", "4433/udp"]
LAYER, CONFIG = "application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.config.v1+json"
MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"


def root(programs):
    """The files of the image."""
    found = {f"usr/local/bin/{name}": (path, 0o755, 0) for name, path in programs.items()}
    for program in programs.values():
        elf.libraries(program)
        found |= {path: (file, 0o755, 0) for path, file in elf.files(program).items()}
    found[str(TRUST).removeprefix("/")] = (TRUST, 0o644, 0)
    found["etc/passwd"] = (f"root:x:0:0::/:/nonexistent\nmotience:x:{USER}:{USER}::/{STATE}:/nonexistent\n".encode(), 0o644, 0)
    found["etc/group"] = (f"root:x:0:\nmotience:x:{USER}:\n".encode(), 0o644, 0)
    found["etc/nsswitch.conf"] = (b"hosts: files dns\n", 0o644, 0)
    found["tmp"] = (None, 0o1777, 0)
    folders = {str(parent) for path in found for parent in Path(path).parents if str(parent) != "."} | {str(Path(STATE).parent)}
    found |= {folder: (None, 0o755, 0) for folder in folders - found.keys()}
    found[STATE] = (None, 0o750, USER)
    return found


def make(release, programs, out):
    plain = release.tar(root(programs))
    layer = release.gzip(plain)
    created = datetime.fromtimestamp(release.time, UTC).isoformat()
    labels = {"title": "motience", "version": release.version, "revision": release.commit, "licenses": "MIT"}
    config = {
        "architecture": release.architecture,
        "os": "linux",
        "created": created,
        "config": {
            "User": f"{USER}:{USER}",
            "Env": [f"{name}={value}" for name, value in ENVIRONMENT.items()],
            "Cmd": ["motience-server"],
            "WorkingDir": f"/{STATE}",
            "Volumes": {f"/{STATE}": {}},
            "ExposedPorts": {port: {} for port in PORTS},
            "StopSignal": "SIGTERM",
            "Labels": {f"org.opencontainers.image.{name}": value for name, value in labels.items()},
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(plain)]},
        "history": [{"created": created, "created_by": "scripts/package"}],
    }
    blobs = {}

    def add(kind, content):
        content = content if isinstance(content, bytes) else json.dumps(content, indent=1).encode()
        blobs[f"blobs/sha256/{digest(content).removeprefix('sha256:')}"] = content
        return {"mediaType": kind, "digest": digest(content), "size": len(content)}

    parts = {"config": add(CONFIG, config), "layers": [add(LAYER, layer)]}
    manifest = add(MANIFEST, {"schemaVersion": 2, "mediaType": MANIFEST, **parts})
    tag = f"motience:{release.version.replace('~', '-')}"
    names = {"org.opencontainers.image.ref.name": tag.split(":")[1], "io.containerd.image.name": tag}
    manifest |= {"platform": {"architecture": release.architecture, "os": "linux"}, "annotations": names}
    config_at, layer_at = (f"blobs/sha256/{part['digest'].removeprefix('sha256:')}" for part in (parts["config"], *parts["layers"]))
    files = {
        **blobs,
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]}, indent=1).encode(),
        "manifest.json": json.dumps([{"Config": config_at, "RepoTags": [tag], "Layers": [layer_at]}]).encode(),
    }
    made = out / f"{release.name}-oci-{release.architecture}.tar"
    folders = {"blobs": (None, 0o755, 0), "blobs/sha256": (None, 0o755, 0)}
    made.write_bytes(release.tar({**folders, **{name: (content, 0o644, 0) for name, content in files.items()}}))
    return made


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
