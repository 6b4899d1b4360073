"""docs/install.md on a clean machine: a Debian made for it, systemd as its first process, apt and the packages' own scripts and units.

Left out: the kernel is this machine's, and the network is loopback, so that apt installs the packages without fetching anything.
"""

import re
import shutil

import certificate
import machine
import pytest
from node import ROOT

pytestmark = pytest.mark.skipif(machine.possible() is not None, reason=str(machine.possible()))


@pytest.fixture(scope="module")
def running(pytestconfig, made):
    folder = pytestconfig.debian.folder()
    for package in made.glob("*.deb"):
        shutil.copy(package, folder / "root")
    # An operator has these before: a certificate, and its authority among those that the machine trusts.
    (folder / "etc/motience/tls").mkdir(parents=True)
    certificate.write(folder / "etc/motience/tls")
    authority = folder / "usr/local/share/ca-certificates/tests.crt"
    authority.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder / "etc/motience/tls/ca.pem", authority)
    with machine.Machine(folder) as running:
        running.does("update-ca-certificates")
        yield running


def test_a_clean_machine_installs_enables_enrols_and_receives_as_the_page_says(running):
    section = (ROOT / "docs/install.md").read_text().partition("\n## A server and a device\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```bash[^\n]*\n(.*?)^```$", section, re.S | re.M)
    # The last one needs no blocks before it, and asks.
    *transcript, operator = blocks
    assert len(transcript) == 3
    said = running.does("set -x\n" + "\n".join(transcript))
    assert re.search(r'^\{"producer_id":"1",.*"device_id":"shed"', said, re.M), said
    assert "enrolled shed of producer 1" in said
    # Both services run as their own accounts, confined, and come back with the machine.
    for unit, user in (("motience-server", "motience"), ("motience-device", "motience-device")):
        shown = running.does(f"systemctl show {unit} -P User -P ActiveState -P UnitFileState -P NRestarts")
        assert sorted(shown.split()) == sorted(["0", "active", "enabled", user]), shown
    # The line for commands that need the server's settings.
    operator = operator.replace("--pty ", "--pipe ")
    assert "root" in running.does(f"echo 'a sentence of the operator' | {operator}")


def test_an_upgrade_starts_the_service_again_and_a_removal_ends_it(running):
    before = running.does("systemctl show motience-server -P MainPID")
    running.does("apt-get install -y --reinstall ./motience-server_*.deb")
    after = running.does("systemctl show motience-server -P MainPID -P ActiveState").split()
    assert "active" in after and before.strip() not in after
    running.does("motience-server healthcheck && apt-get purge -y motience-server motience-agent")
    left = running.does("ls /var/lib/motience /var/lib/motience-device; systemctl list-units --all --no-legend 'motience-*' || true")
    assert "motience.db" in left or "data" in left
    assert "active running" not in left
    assert running.run("ls /usr/bin/motience-server").returncode != 0
