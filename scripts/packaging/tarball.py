"""A tarball for systems without dpkg: the programs, their units and settings, the documents."""

from .release import ROOT

FILES = {
    "LICENSE": "LICENSE",
    "README.md": "README.md",
    "env.example": ".env.example",
    "motience-device.example.toml": "device/agent/motience-device.example.toml",
}
FOLDERS = {"docs": "docs/*.md", "systemd": "deploy/systemd/*", "prometheus": "deploy/prometheus/*", "grafana": "deploy/grafana/**/*"}


def make(release, programs, out):
    files = {f"bin/{name}": (path, 0o755, 0) for name, path in programs.items()}
    files |= {name: (ROOT / path, 0o644, 0) for name, path in FILES.items()}
    for folder, pattern in FOLDERS.items():
        for path in filter(lambda path: path.is_file(), ROOT.glob(pattern)):
            base = ROOT / pattern.split("*")[0]
            files[f"{folder}/{path.relative_to(base)}"] = (path, 0o644, 0)
    made = out / f"{release.name}-linux-{release.architecture}.tar.gz"
    made.write_bytes(release.gzip(release.tar(files, f"{release.name}/")))
    return made
