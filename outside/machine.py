"""A clean Debian in a folder, started by systemd in namespaces of its own, as a machine that has just been installed."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# People who log in to a system have these beside the tools of every Debian.
PACKAGES = ("systemd-sysv", "dbus", "ca-certificates", "curl")
# Nobody reads here, and nothing has to outlive a power cut.
THRIFT = ("--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io", *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")))
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# Longest times to make it, to start it, and for a script on it, in seconds.
MAKE_LIMIT, START_LIMIT, SCRIPT_LIMIT = 600, 60, 120


class Debian:
    """A Debian of this machine's release, with apt and systemd and little else, that is made while other tests run."""

    def __init__(self):
        self.place = tempfile.TemporaryDirectory(prefix="motience-machine-", ignore_cleanup_errors=True)
        self.making = ThreadPoolExecutor(1).submit(self.make, Path(self.place.name) / "debian")

    def folder(self):
        """Its folder, once it is made."""
        return self.making.result()

    @staticmethod
    def make(folder):
        release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)["VERSION_CODENAME"]
        command = ["mmdebstrap", "--variant=apt", f"--include={','.join(PACKAGES)}", *THRIFT, release, str(folder)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=MAKE_LIMIT)
        assert made.returncode == 0, made.stderr
        (folder / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        return folder


class Machine:
    """The machine of a folder while it runs. Its network is loopback alone."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"

    def __enter__(self):
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--resolv-conf=off", "--timezone=off"]
        with self.log.open("w") as log:
            command += ["--kill-signal=SIGRTMIN+3", f"--directory={self.folder}", "--boot", "systemd.unit=multi-user.target"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_LIMIT
        while not (self.first() and self.run("systemctl is-system-running").stdout in ("running\n", "degraded\n")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise AssertionError(self.log.read_text())
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def first(self):
        """The number that its first process has out here; nothing before there is one."""
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                words = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
            except OSError:
                continue
            if words["PPid"] == str(self.process.pid):
                return int(words["Pid"])
        return None

    def run(self, script):
        """Runs a script of bash as root of the machine; gives how it went, and all that it printed."""
        command = ["nsenter", f"--target={self.first()}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/root"]
        command += ["/usr/bin/env", "-i", f"PATH={PATH}", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "/bin/bash", "-euo", "pipefail"]
        return subprocess.run(command, input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SCRIPT_LIMIT)

    def does(self, script):
        """Runs a script that has to succeed; gives what it printed."""
        run = self.run(script)
        assert run.returncode == 0, f"{run.stdout}\n{self.run('journalctl --no-pager -n 60').stdout}"
        return run.stdout


def possible():
    """Why there can be no such machine here; nothing where there can."""
    if os.geteuid() != 0:
        return "systemd-nspawn asks for root"
    missing = [name for name in ("mmdebstrap", "systemd-nspawn") if not shutil.which(name)]
    return f"{', '.join(missing)} is missing" if missing else None
