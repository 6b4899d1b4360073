"""Schemathesis against the OpenAPI documents that the services themselves serve: every check, every phase, no finding.

Each document is tried by nobody, and by a fresh account of each role, with data that fits it and data that does not.
OUTSIDE_EXAMPLES and OUTSIDE_SEED make it look further or elsewhere.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SERVICES = ("ap", "sm", "dsm")
ROLES = ("nobody", "producer", "consumer", "admin")
EXAMPLES = os.environ.get("OUTSIDE_EXAMPLES", "30")
SEED = os.environ.get("OUTSIDE_SEED", "1")
# Longest time for one answer, and for all of one document, in seconds.
ANSWER_LIMIT, LIMIT = 10, 600
# Records that are there already: as many as end an event stream.
KEPT = 20
# Operations whose bodies mean more than their schemas say.
JUDGED = ("POST /subscriptions/invite", "POST /subscriptions/{id}/approve", "POST /keys", "POST /organisations/{id}/invitations", "PUT /organisations/{id}/members/{user_id}", "POST /devices/enrolments", "PUT /devices/{producer_id}/{device_id}/labels", "POST /erasures")
PHASES = "examples,coverage,fuzzing,stateful"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("service", SERVICES)
def test_the_service_does_what_its_document_says(node, service, role, tmp_path):
    producer, consumer = node.account("producer"), node.account("consumer")
    node.subscribe(consumer, producer)
    record = {"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3}}
    node.post("dsm", "/data", [record] * KEPT, producer.token)
    # An operator revokes accounts of this test, or of earlier ones.
    admin = node.account("admin")
    caller = {"producer": producer, "consumer": consumer, "admin": admin}.get(role)
    (tmp_path / "schemathesis.toml").write_text(settings(producer, consumer, admin))
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "--no-color", "run"),
        *("--checks", "all", "--mode", "all", "--phases", PHASES, "--continue-on-failure", "--output-truncate", "false"),
        *("--max-examples", EXAMPLES, "--seed", SEED, "--request-timeout", str(ANSWER_LIMIT)),
        *(("--header", f"Authorization: Bearer {caller.token}") if caller else ()),
        # The document's own addresses are relative to where it is read.
        *("--url", node.at[service]),
        f"{node.at[service]}/api-docs/openapi.json",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "SCHEMATHESIS_HOOKS": "hooks"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment.get("PYTHONPATH", "")])
    run = subprocess.run(command, cwd=tmp_path, env=environment, text=True, encoding="utf-8", capture_output=True, timeout=LIMIT)
    assert run.returncode == 0, run.stdout + run.stderr
    selected, total = re.search(r"Operations: +(\d+) selected / (\d+) total", run.stdout).groups()
    tested = re.search(r"Tested: +(\d+)", run.stdout)[1]
    assert selected == total == tested, run.stdout


def judged(operation):
    """Statuses of an operation whose bodies mean more than a schema can say: times to come, filters, one of two members; long ones. Of some there may be so many."""
    return f"""
[[operations]]
include-name = "{operation}"
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "422", "429"]
checks.negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "406", "413", "415", "422"]
"""


def settings(*accounts):
    """Lets it come upon accounts that exist, now and then: most of what an id can be names nobody."""
    return f"""
[auth]
auto-signup = false

[generation]
# Parameters that nobody knows are passed over, as the first platform did.
allow-extra-parameters = false

{chr(10).join(map(judged, JUDGED))}

[dictionaries.ids]
values = {json.dumps([account.id for account in accounts])}

[generation.dictionaries]
integer = {{ dictionary = "ids", probability = 0.3 }}
"""
