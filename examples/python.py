#!/usr/bin/env python3
"""Motience with Python's standard library: register, log in, subscribe, send, receive, resume.

Start a server first (`cargo run --release`), then run `python3 examples/python.py`. AP_URL, SM_URL and DSM_URL name services that are
elsewhere.
"""

import json
import os
import urllib.error
import urllib.parse
import urllib.request

AP = os.environ.get("AP_URL", "http://localhost:3001")
SM = os.environ.get("SM_URL", "http://localhost:3002")
DSM = os.environ.get("DSM_URL", "http://localhost:3003")
# Seconds without a byte after which a stream counts as broken. The server says something every 15 seconds.
SILENCE = 40


def post(url, body, token=None):
    """The JSON answer to a JSON body. A refusal raises HTTPError, whose body says why."""
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def log_in(role):
    """An account with this role, made where it does not exist yet."""
    account = {"username": f"python-{role}", "password": "pass123"}
    try:
        post(f"{AP}/register", {**account, "role": role})
    except urllib.error.HTTPError as refusal:
        if refusal.code != 409:  # The name is taken: by an earlier run.
            raise
    return post(f"{AP}/login", account)


def records(token, producer, position):
    """The records of a producer after a position, then live ones, without an end."""
    query = urllib.parse.urlencode({"producers": producer, "from": position})
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    request = urllib.request.Request(f"{DSM}/stream?{query}", headers=headers)
    with urllib.request.urlopen(request, timeout=SILENCE) as stream:
        for line in stream:
            message = json.loads(line)
            if "type" not in message:
                yield message
            elif message["type"] != "cursors":
                print("notice:", message)  # gap, reset or end


def send(token, temperature):
    post(f"{DSM}/data", {"device_id": "rpi_001", "data": {"temperature": temperature}}, token)
    print("sent", temperature)


def receive(token, producer, position, count):
    """Prints so many records and gives the cursor of the last one."""
    stream = records(token, producer, position)
    for _ in range(count):
        record = next(stream)
        print("received", record["data"], "at", record["cursor"])
    stream.close()
    return record["cursor"]


def main():
    producer, consumer = log_in("producer"), log_in("consumer")
    post(f"{SM}/subscribe", {"producer_id": producer["user_id"]}, consumer["access_token"])
    print("subscribed to producer", producer["user_id"])

    send(producer["access_token"], 20.5)
    send(producer["access_token"], 21.5)
    cursor = receive(consumer["access_token"], producer["user_id"], "earliest", 2)

    # The consumer is away now. A record that is sent meanwhile waits in the log.
    send(producer["access_token"], 22.5)
    print("resuming after", cursor)
    receive(consumer["access_token"], producer["user_id"], cursor, 1)


if __name__ == "__main__":
    main()
