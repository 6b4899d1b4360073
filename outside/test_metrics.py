"""The alerts, the boards and docs/metrics.md against a scrape of real nodes by a real Prometheus."""

import asyncio
import http.client
import json
import re
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import backends
import pytest
import yaml
from motience1 import Closed
from motience1_tunnel import tunnel
from node import GATEWAY, ROOT, START_LIMIT, Node
from prometheus import RULES, Prometheus

BOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RECORD = {"device_id": "d1", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3}}
ROW = re.compile(r"^\| `(motience_\w+)` \| (\w+) \| ([^|]+) \| ([^|]*) \| (.*) \|$", re.M)
SELECTOR = re.compile(r"(?<![\w:])((?:instance:)?motience_[\w:]+|up|ALERTS)(\{[^}]*\})?")


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, node):
    """A Prometheus that has seen an embedded server, and a server and a gateway that meet in Redis, each with a little traffic."""
    with backends.redis(tmp_path_factory.mktemp("redis")) as redis, backends.postgres() as postgres, backends.replica(postgres) as replica:
        shared = {"REDIS_URL": redis, "DATABASE_URL": postgres, "DATABASE_READ_URL": replica}
        server = Node(tmp_path_factory.mktemp("server"), ROLES="ap,sm,dsm,ingest", **shared)
        gateway = Node(tmp_path_factory.mktemp("gateway"), GATEWAY, **shared)
        nodes = [node, server, gateway]
        watching = Prometheus(tmp_path_factory.mktemp("prometheus"), [each.at["operations"] for each in nodes])
        try:
            watching.until("all nodes are scraped", lambda: len(watching.query("up == 1")) == len(nodes))
            for each, sockets in [(node, node), (server, gateway)]:
                traffic(each, sockets)
            # Rates need two scrapes after the traffic, and a recorded one an evaluation more.
            watching.until("the traffic is seen", lambda: watching.query("instance:motience_records_appended:rate1m > 0"))
            # A producer has a rate only while it sends.
            sending = node.account("producer")
            # Its size is reached before its age, and long before the alert fires.
            put(node, f"/retention/{sending.id}", {"log_bytes": 65536}, sending.token)
            watching.until("rates are ranked", lambda: node.post("dsm", "/data", RECORD, sending.token) and watching.query("motience_producer_rate"))
            cuts = 'motience_retention_cut_seconds{bound="bytes"}'
            watching.until("retention is measured", lambda: node.post("dsm", "/data", RECORD, sending.token) and watching.query(cuts))
            watching.until("durable consumers are measured", lambda: watching.query("motience_durable_lag_seconds"))
            watching.until("Redis is measured", lambda: watching.query("motience_redis_budget_bytes"))
            watching.until("the replica is looked at", lambda: watching.query("motience_database_replica_lag_seconds"))
            yield watching
        finally:
            watching.stop()
            for each in (gateway, server):
                each.stop()


def traffic(node, gateway):
    """Records by POST to a reader of GET /stream; a request and a session that are refused."""
    producer, consumer = node.account("producer"), node.account("consumer")
    node.subscribe(consumer, producer)
    url = urlsplit(node.at["dsm"])
    stream = http.client.HTTPConnection(url.hostname, url.port, timeout=START_LIMIT)
    head = {"Authorization": f"Bearer {consumer.token}", "Accept": "application/x-ndjson"}
    stream.request("GET", f"/stream?producers={producer.id}&from=earliest", headers=head)
    lines = stream.getresponse()
    for n in range(10):
        node.post("dsm", "/data", {**RECORD, "data": {"n": n}}, producer.token)
    first = json.loads(lines.readline())
    while first.get("data") is None:
        first = json.loads(lines.readline())
    while json.loads(lines.readline()).get("data") != {"n": 9}:
        pass
    stream.close()
    # A durable consumer that has confirmed the first record only.
    confirm(node, consumer, {producer.id: first["cursor"]})
    with pytest.raises(urllib.error.HTTPError, match="401"):
        node.post("dsm", "/data", RECORD, "no token")
    asyncio.run(stranger(gateway.at["wss1"].replace("/producer", "/motience")))


def confirm(node, consumer, cursors):
    body = json.dumps({"cursors": {str(producer): cursor for producer, cursor in cursors.items()}}).encode()
    head = {"Authorization": f"Bearer {consumer.token}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{node.at['dsm']}/cursors/app", body, head), timeout=START_LIMIT).close()


def put(node, path, body, token):
    head = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(node.at["dsm"] + path, json.dumps(body).encode(), head, method="PUT")
    urllib.request.urlopen(request, timeout=START_LIMIT).close()


async def stranger(url):
    """A device whose token is none."""
    async with tunnel(url) as through:
        with pytest.raises(Closed):
            await through.hello("no token", "d1", 1)


def expressions():
    """Every expression of the rules and of the boards' panels, with what it belongs to."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield pytest.param(rule["expr"], id=rule.get("alert") or rule["record"])
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", "1m").replace('="$instance"', '=~".+"')
                yield pytest.param(expression, id=f"{path.stem}: {panel['title']} {target['refId']}")


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_is_about_series_that_nodes_have(prometheus, expression):
    prometheus.query(expression)
    selectors = [name + (matchers or "") for name, matchers in SELECTOR.findall(expression)]
    assert selectors
    for selector in selectors:
        # Alerts are series only while they fire.
        if not selector.startswith("ALERTS"):
            assert prometheus.query(f"last_over_time({selector}[5m])"), f"no node has {selector}"


def test_healthy_nodes_raise_no_alert(prometheus):
    groups = prometheus.ask("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules and all(rule["health"] == "ok" for rule in rules), [rule for rule in rules if rule["health"] != "ok"]
    firing = [alert["labels"] for alert in prometheus.ask("alerts")["alerts"] if alert["state"] == "firing"]
    assert not firing


def test_the_page_has_every_series_of_a_scrape_and_no_other(prometheus):
    page = {name: (kind, labels, f"{meaning} Unit: {unit}.") for name, kind, unit, labels, meaning in ROW.findall((ROOT / "docs/metrics.md").read_text())}
    told = {name: entries[0] for name, entries in prometheus.ask("metadata").items() if name.startswith("motience_")}
    assert told.keys() == page.keys()
    for name, (kind, labels, meaning) in page.items():
        assert (told[name]["type"], told[name]["help"]) == (kind, meaning), name
        known = dict(re.match(r"`(\w+)`(?:: (.*))?", part).groups() for part in labels.split("; ") if part)
        for series in prometheus.ask("series", **{"match[]": name}):
            own = {label: value for label, value in series.items() if label not in ("__name__", "instance", "job")}
            assert own.keys() == known.keys(), series
            assert all(known[label] is None or value in known[label].split(", ") for label, value in own.items()), series


def test_each_alert_has_a_test_of_its_own():
    rules = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule}
    tests = yaml.safe_load(RULES.with_name("rules_test.yml").read_text())["tests"]
    fires = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if case["exp_alerts"]}
    quiet = {case["alertname"] for test in tests for case in test.get("alert_rule_test", []) if not case["exp_alerts"]}
    assert rules == fires == quiet
