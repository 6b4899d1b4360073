"""A folder that dpkg and chroot take for a system: a shell, the tools of maintainer scripts, a dpkg of its own that knows a few packages."""

import re
import shutil
import subprocess
from pathlib import Path

# Programs that maintainer scripts and the services of the tests run.
TOOLS = ("sh", "getent", "useradd", "nologin", "cat", "kill")
# Packages that ours depend on. The root has their files, so its dpkg is told that they are installed.
PROVIDED = ("libc6", "libgcc-s1", "passwd")
# How dpkg writes a package down that it has installed.
KNOWN = "Package: ${Package}\nStatus: install ok installed\nArchitecture: ${Architecture}\nMulti-Arch: ${Multi-Arch}\nVersion: ${Version}\nMaintainer: none\nDescription: none\n\n"
FILES = ("/etc/login.defs", "/etc/default/useradd", "/etc/nsswitch.conf")
CHROOT, RUNC = (shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("chroot", "runc"))
LIMIT = 60


class Root:
    """Such a system, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "etc/default", "var/lib/dpkg/info", "var/lib/dpkg/updates", "run", "tmp", "dev"):
            (folder / name).mkdir(parents=True, mode=0o755)
        for name in ("bin", "sbin", "lib", "lib64"):
            (folder / name).symlink_to(f"usr/{name}")
        for tool in TOOLS:
            self.copy(shutil.which(tool, path="/usr/bin:/usr/sbin:/bin:/sbin"))
        for library in ("libgcc_s.so.1", "libm.so.6"):
            self.copy(library)
        for path in FILES:
            shutil.copy(path, folder / path[1:])
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (folder / "etc/group").write_text("root:x:0:\n")
        (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (folder / "etc/shadow").write_text("root:*:19000:0:99999:7:::\n")
        (folder / "etc/gshadow").write_text("root:*::\n")
        shown = output("dpkg-query", "--show", "--showformat", KNOWN, *PROVIDED)
        (folder / "var/lib/dpkg/status").write_text(shown)
        for name in PROVIDED:
            (folder / f"var/lib/dpkg/info/{name}.list").write_text("/.\n")

    def copy(self, program):
        """Copies a program, or a library by its name, with all that it is linked with."""
        if "/" not in program:
            [program, *_] = re.findall(rf"{re.escape(program)} .*=> (/\S+)", output("/sbin/ldconfig", "-p"))
        # A program or library is found where its path leads through the links of the root above.
        for path in [program, *re.findall(r"(/\S+) \(0x", output("ldd", program))]:
            at = self.folder / path[1:]
            at.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, at)

    def dpkg(self, *arguments, code=0):
        """Runs dpkg on this root; gives what it says."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
        command = ["dpkg", f"--root={self.folder}", "--force-confold", *map(str, arguments)]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, timeout=LIMIT)
        assert run.returncode == code, run.stdout + run.stderr
        return run.stdout + run.stderr

    def command(self, *command, user="root"):
        """A command line that runs in this root as one of its accounts."""
        ids = dict(re.findall(r"^(\w[\w-]*):x:(\d+:\d+):", (self.folder / "etc/passwd").read_text(), re.M))
        return [CHROOT, f"--userspec={ids[user]}", str(self.folder), *map(str, command)]

    def run(self, *command, user="root", **environment):
        """Runs a command in this root; gives its output."""
        run = subprocess.run(self.command(*command, user=user), capture_output=True, text=True, env=environment, timeout=LIMIT)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    def own(self, path, user):
        """Gives a file or folder to an account, as systemd does with the folders of a unit."""
        uid, gid = re.search(rf"^{user}:x:(\d+):(\d+):", (self.folder / "etc/passwd").read_text(), re.M).groups()
        shutil.chown(self.folder / path, int(uid), int(gid))


def unit(folder, name):
    """The environment and the folder of state of an installed unit."""
    text = Path(folder, "usr/lib/systemd/system", name).read_text()
    environment = dict(pair.split("=", 1) for line in re.findall(r"^Environment=(.*)", text, re.M) for pair in line.split())
    return text, environment, re.search(r"^StateDirectory=(.*)", text, re.M)[1]


def output(*command):
    """Runs a command on this machine; gives its output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
