"""Programs that need nothing of the system they run on: with musl, also for other machines, by cargo-zigbuild.

The C compiler and the C library come with Zig, from PyPI. Rust's own library is rustup's; where rustup has none for a target, it is built from the
component `rust-src`.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from . import elf
from .release import PROGRAMS, ROOT, TARGET, output

TOOLS = TARGET / "tools/cross"
INSTALL = "python3 -m pip install --require-hashes --target target/tools/cross -r scripts/tools/cross.txt"
CRATES = {"motience-server": "motience-server", "motience-gateway": "motience-gateway", "motience-device": "motience-agent"}


@dataclass(frozen=True)
class Target:
    """A kind of machine, and what is built for it."""

    triple: str
    programs: tuple


# By Debian's names: armhf is ARMv7.
TARGETS = {
    "amd64": Target("x86_64-unknown-linux-musl", PROGRAMS),
    "arm64": Target("aarch64-unknown-linux-musl", ("motience-device",)),
    "armhf": Target("armv7-unknown-linux-musleabihf", ("motience-device",)),
}


def build(release, architecture, profile):
    """Builds the programs for an architecture; gives their files by name."""
    target = TARGETS[architecture]
    environment = {**os.environ, "MOTIENCE_COMMIT": release.commit, "PATH": f"{TOOLS / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    zig = TOOLS / "ziglang/zig"
    if zig.exists():
        environment["CARGO_ZIGBUILD_ZIG_PATH"] = str(zig)
    if not shutil.which("cargo-zigbuild", path=environment["PATH"]):
        raise SystemExit(f"cargo-zigbuild is missing, which builds for {architecture}: {INSTALL}")
    command = ["cargo", "zigbuild", "--locked", "--profile", profile, "--no-default-features", "--target", target.triple]
    if not library(target.triple).exists():
        if not (Path(output("rustc", "--print", "sysroot")) / "lib/rustlib/src/rust/library/Cargo.lock").exists():
            raise SystemExit(f"Rust's library for {target.triple} is missing: rustup target add {target.triple}, or rustup component add rust-src")
        # Cargo builds the library only for those who say that they know. The objects that begin a program come with Zig then.
        environment["RUSTC_BOOTSTRAP"] = "1"
        environment[f"CARGO_TARGET_{target.triple.upper().replace('-', '_')}_RUSTFLAGS"] = "-C link-self-contained=no"
        command += ["-Z", "build-std=std,panic_unwind"]
    subprocess.run([*command, *(f"-p={CRATES[name]}" for name in target.programs)], cwd=ROOT, env=environment, check=True)
    folder = TARGET / target.triple / {"dev": "debug"}.get(profile, profile)
    found = {name: folder / name for name in target.programs}
    for name, program in found.items():
        if elf.libraries(program) or elf.loader(program):
            raise SystemExit(f"{name} for {architecture} is not static")
    return found


def library(triple):
    """Where rustup puts Rust's own library for a target."""
    return Path(output("rustc", "--print", "sysroot")) / "lib/rustlib" / triple / "lib"
