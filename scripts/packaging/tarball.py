"""A tarball for systems without dpkg: the programs, their units and settings, the documents."""

from .release import PROGRAMS, ROOT

# The agent's alone, and what comes with servers.
AGENT = {
    "LICENSE": "LICENSE",
    "motience-device.example.toml": "device/agent/motience-device.example.toml",
    "systemd/motience-device.service": "deploy/systemd/motience-device.service",
}
FILES = {**AGENT, "README.md": "README.md", "env.example": ".env.example"}
FOLDERS = {"docs": "docs/*.md", "systemd": "deploy/systemd/*", "prometheus": "deploy/prometheus/*", "grafana": "deploy/grafana/**/*"}


def make(release, programs, out):
    whole = set(programs) == set(PROGRAMS)
    files = {f"bin/{name}": (path, 0o755, 0) for name, path in programs.items()}
    files |= {name: (ROOT / path, 0o644, 0) for name, path in (FILES if whole else AGENT).items()}
    for folder, pattern in FOLDERS.items() if whole else ():
        for path in filter(lambda path: path.is_file(), ROOT.glob(pattern)):
            base = ROOT / pattern.split("*")[0]
            files[f"{folder}/{path.relative_to(base)}"] = (path, 0o644, 0)
    name = release.name if whole else release.name.replace("motience-", "motience-agent-", 1)
    made = out / f"{name}-linux-{release.architecture}.tar.gz"
    made.write_bytes(release.gzip(release.tar(files, f"{name}/")))
    return made
