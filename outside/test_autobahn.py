"""Autobahn's cases, driven by kosoku, against wss1 and wss2: none may fail.

`echo.py` says how servers that do not echo are judged by cases that expect an echo. Groups 12 and 13 are about
permessage-deflate, which the gateway does not offer: there the cases must see it declined and the connection closed cleanly.
"""

import asyncio

import kosoku
import pytest
from echo import Echo
from kosoku.cases import CASES

SIDES = ("wss1", "wss2")
COMPRESSION = ("12", "13")
GROUPS = sorted({case.split(".")[0] for case in CASES}, key=int)
AT_ONCE = 8


def expected(_opcode, _message, answer):
    """Whether this is what both sides answer to a message that is no JSON, be it text or binary."""
    return answer["type"] == "error" and answer["code"] == "invalid_json"


async def run(url):
    async with Echo(url, expected) as echo:
        try:
            return await kosoku.run_fuzzingclient(echo.url, concurrency=AT_ONCE)
        except kosoku.FailureError as failure:
            return failure.results


@pytest.fixture(scope="session", params=SIDES)
def results(request, node):
    """The result of each case against one side."""
    role, query = {"wss1": ("producer", ""), "wss2": ("consumer", "&v=2")}[request.param]
    found = asyncio.run(run(f"{node.at[request.param]}?token={node.account(role).token}{query}"))
    return {result.case_id: result for result in found}


def test_every_case_is_run(results):
    assert results.keys() == CASES.keys()
    assert len(results) > 500


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in COMPRESSION])
def test_no_case_fails(results, group):
    failed = [told(result) for result in of(results, group) if not result.passed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("group", COMPRESSION)
def test_compression_is_declined(results, group):
    for result in of(results, group):
        assert "sec-websocket-extensions" not in result.http_response.lower(), told(result)
        assert (result.behavior.value, result.behavior_close.value) == ("UNIMPLEMENTED", "OK"), told(result)


def of(results, group):
    return [result for case, result in results.items() if case.split(".")[0] == group]


def told(result):
    return (
        f"{result.case_id}: {result.behavior.value}, {result.behavior_close.value} (code {result.remote_close_code}). "
        f"{result.expectation} {result.result} {result.result_close}"
    )
