"""A real Prometheus that scrapes real nodes, with the rules of deploy/prometheus."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from backends import free_port
from node import ROOT

RULES = ROOT / "deploy/prometheus/rules.yml"
# Longest wait for Prometheus to start, and for what it has to see, in seconds.
LIMIT = 60


class Prometheus:
    """Scrapes and evaluates each second."""

    def __init__(self, directory, targets):
        self.address = f"127.0.0.1:{free_port()}"
        scrape = {"job_name": "motience", "static_configs": [{"targets": [url.removeprefix("http://").rstrip("/") for url in targets]}]}
        config = directory / "prometheus.yml"
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config.write_text(json.dumps({"global": every, "rule_files": [str(RULES)], "scrape_configs": [scrape]}))
        self.log = directory / "prometheus.log"
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={self.address}"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self):
        self.process.terminate()
        self.process.wait(LIMIT)

    def ask(self, path, **query):
        """The data of an answer of its API; raises what Prometheus says where it refuses the query."""
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=LIMIT) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            # Prometheus listens before it is ready.
            if error.code == 503:
                raise
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def query(self, expression):
        """The samples of an expression now."""
        return self.ask("query", query=expression)["result"]

    def until(self, what, holds):
        """Waits until something holds, which may not be askable yet."""
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                if holds():
                    return
            except urllib.error.URLError:
                assert self.process.poll() is None, f"Prometheus ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what}: not within {LIMIT} s\n{self.log.read_text()[-2000:]}"
            time.sleep(0.2)
