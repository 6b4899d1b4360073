"""A software bill of materials for each program: CycloneDX 1.5, of what cargo links into it for production."""

import json
import re
import tomllib
import uuid
from datetime import UTC, datetime
from urllib.parse import quote

from .release import ROOT, output

# Package of the workspace to the program's name.
PACKAGES = {"motience-server": "motience-server", "motience-gateway": "motience-gateway", "motience-agent": "motience-device"}
# Depth, name, version, license; what `(*)` marks has its dependencies elsewhere.
LINE = re.compile(r"^(\d+)(\S+) v(\S+)(?: \((?:proc-macro|/[^)]*)\))*\|(.*?)(?: \(\*\))?$")


def make(release, out):
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    hashes = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    for package, program in PACKAGES.items():
        made = out / f"{program}-{release.version.replace('~', '-')}.cdx.json"
        made.write_text(json.dumps(document(release, package, program, hashes), indent=1) + "\n")
        yield made


def document(release, package, program, hashes):
    command = ["cargo", "tree", "--locked", "-p", package, "--no-default-features", "--edges", "normal", "--prefix", "depth"]
    components, depends, above = {}, {}, []
    for line in output(*command, "--format", "{p}|{l}").splitlines():
        depth, name, version, license_ = LINE.match(line).groups()
        at = (name, version)
        components[at] = license_
        depends.setdefault(at, set())
        del above[int(depth) :]
        if above:
            depends[above[-1]].add(at)
        above.append(at)
    root = next(iter(components))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{program} {release.version}')}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(release.time, UTC).isoformat(),
            "component": {**component(root, components[root], None), "type": "application", "name": program, "version": release.version},
        },
        "components": [component(at, components[at], hashes[at]) for at in sorted(components) if at != root],
        "dependencies": [{"ref": ref(at), "dependsOn": sorted(map(ref, on))} for at, on in sorted(depends.items())],
    }


def ref(at):
    return f"pkg:cargo/{at[0]}@{quote(at[1])}"


def component(at, license_, checksum):
    """A crate; those of this workspace have no checksum."""
    found = {"type": "library", "bom-ref": ref(at), "name": at[0], "version": at[1], "purl": ref(at)}
    if license_:
        found["licenses"] = [{"expression": license_.replace("/", " OR ")}]
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    return found
