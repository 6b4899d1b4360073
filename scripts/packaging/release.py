"""A release: version, commit, time and programs, and archives that come out the same each time."""

import gzip
import io
import os
import subprocess
import tarfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
PROGRAMS = ("motience-server", "motience-gateway", "motience-device")


@dataclass(frozen=True)
class Release:
    """The version of Cargo.toml at the tag `vVERSION`; of any other commit, one that sorts before it and names the commit."""

    version: str
    commit: str
    # Seconds since 1970: the time of the commit.
    time: int
    architecture: str
    fast: bool

    @classmethod
    def of_tree(cls, fast):
        version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        commit, time = git("show", "-s", "--format=%h %ct", "--abbrev=12", "HEAD").split()
        day = git("show", "-s", "--format=%cd", "--date=format:%Y%m%d", "HEAD")
        if f"v{version}" in git("tag", "--points-at", "HEAD").split():
            if f"\n## [{version}] - " not in (ROOT / "CHANGELOG.md").read_text():
                raise SystemExit(f"CHANGELOG.md has no section [{version}], which this commit is tagged as")
        else:
            version += f"~git{day}.{commit}"
        return cls(version, commit, int(time), output("dpkg", "--print-architecture"), fast)

    def of(self, architecture):
        """The part of the release that is for another architecture."""
        return replace(self, architecture=architecture)

    @property
    def name(self):
        """The beginning of the names of files; `~` is not for all of them."""
        return f"motience-{self.version.replace('~', '-')}"

    def stripped(self, binaries, work):
        """Copies of the programs without symbols, by name."""
        found = {}
        for name in PROGRAMS:
            found[name] = work / name
            subprocess.run(["strip", "--strip-all", "-o", found[name], binaries / name], check=True)
        return found

    def tar(self, files, prefix=""):
        """A tar of `files`: path to (content, mode, owner), where the content is bytes, a path to read, or none for a folder."""
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for path in sorted(files):
                content, mode, owner = files[path]
                entry = tarfile.TarInfo(prefix + path)
                entry.mode, entry.uid, entry.gid, entry.mtime = mode, owner, owner, self.time
                if content is None:
                    entry.type = tarfile.DIRTYPE
                    archive.addfile(entry)
                    continue
                content = content.read_bytes() if isinstance(content, Path) else content
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return held.getvalue()

    def gzip(self, content):
        return gzip.compress(content, 1 if self.fast else 9, mtime=0)


def git(*arguments):
    return output("git", "-C", str(ROOT), *arguments)


def output(*command):
    """Runs a command; gives its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "LC_ALL": "C"}).stdout.strip()
