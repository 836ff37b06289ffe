"""A shop's front end in twenty lines: it hears of every move once, and asks where somebody is now.

Run it beside `segstream up`, with the variables that it prints: python examples/personalize.py
"""

import json
import os
import sys

from confluent_kafka import Consumer
from redis import Redis

from segstream.shell.view import Lookup

consumer = Consumer(
    {
        "bootstrap.servers": os.environ["SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS"],
        "group.id": "personalize",
        "isolation.level": "read_committed",  # what was aborted never happened
        "auto.offset.reset": "earliest",
    }
)
namespace = os.environ.get("SEGSTREAM_NAMESPACE", "segstream")
segment_of = Lookup(Redis.from_url(os.environ["SEGSTREAM_REDIS_URL"]), namespace)
consumer.subscribe(sys.argv[1:] or ["segment-changes"])
try:
    while True:
        message = consumer.poll(1.0)
        if message is None or message.error():
            continue
        change = json.loads(message.value() or "")  # schemas/change.json
        if change["cause"] == "model" or change["to"] is None:
            continue  # the segments moved, not the customer; or the customer is gone
        now = segment_of(change["customer"])  # one GET; any page of the shop can ask this
        if now is None or now.sequence <= change["sequence"]:  # has not moved on since
            print(f"{change['customer']}: welcome to {change['to']['name']}", flush=True)  # noqa: T201
except KeyboardInterrupt:
    consumer.close()
