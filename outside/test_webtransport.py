"""aioquic at `/wt`: a session by hand, as a client that is no browser has it."""

import asyncio

import pytest
from http3 import LIMIT, connect, session

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def client(node):
    async with connect(node) as client:
        yield client


def record(n):
    return {"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n}}


async def logged_in(client, account):
    opened = await session(client)
    opened.control.say({"type": "hello", "token": account.token})
    welcome = await opened.control.next()
    assert (welcome["type"], welcome["user_id"]) == ("welcome", account.id)
    return opened


async def test_a_record_goes_through_two_sessions_of_one_connection(node, client):
    producer, consumer = node.account("producer"), node.account("consumer")
    node.subscribe(consumer, producer)
    down, up = await logged_in(client, consumer), await logged_in(client, producer)
    down.control.say({"type": "subscribe", "producer_id": str(producer.id), "from": "earliest"})
    assert await down.control.next() == {"type": "subscribed", "producer_id": str(producer.id)}
    delivery = await asyncio.wait_for(client.incoming.get(), LIMIT)
    assert (await delivery.next())["type"] == "cursor"
    up.control.say(record(1))
    assert (await up.control.next())["type"] == "ack"
    assert (await delivery.next())["data"] == {"n": 1}
    lines = up.upload()
    lines.say(record(2), end=True)
    assert (await up.control.next())["type"] == "ack"
    assert (await delivery.next())["data"] == {"n": 2}
    # REST on the same connection meanwhile.
    assert (await client.ask("GET", "/verify", consumer.token)).json()["user_id"] == consumer.id


async def test_each_end_says_why(node, client):
    producer = node.account("producer")
    for hello, code in [({"type": "hello", "token": "nobody"}, 4401), ({"type": "records"}, 4400)]:
        opened = await session(client)
        opened.control.say(hello)
        assert (await opened.closed())[0] == code
    opened = await logged_in(client, producer)
    node.post("ap", "/logout", {"refresh_token": producer.refresh})
    assert (await opened.closed())[0] == 4401
    # The connection and its other requests are none the worse.
    assert (await client.ask("GET", "/health")).status == 200
