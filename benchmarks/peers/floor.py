"""The floor: what moving the bytes alone costs, with nothing decoded and nothing computed.

    python floor.py PLACE.json

Consume in batches, MGET the customers of a batch, MULTI / MSET / EXEC as many bytes each as
segstream's State has under the same job. Offsets are committed, but nothing holds the two together.
"""

import gc
import json
import signal
import sys
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer
from redis import Redis

BATCH = 5_000


def main(place: dict[str, Any]) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": place["bootstrap"],
            "group.id": place["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "fetch.queue.backoff.ms": 5,
        }
    )
    redis = Redis.from_url(place["redis"])
    state = bytes(place["setting"]["state_bytes"])
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    consumer.subscribe([place["input"]])
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    while running:
        messages = consumer.consume(BATCH, 0.1)
        # The values are taken out of the client, as whoever computes with them must.
        taken = [(m.partition(), m.key(), m.value()) for m in messages if m.error() is None]
        customers: dict[Any, set[Any]] = {}
        for partition, key, _ in taken:
            customers.setdefault(partition, set()).add(key)
        for partition, mine in customers.items():
            start = b"floor:{%d}:" % partition
            keys = [start + key for key in mine]
            redis.mget(keys)
            with redis.pipeline(transaction=True) as pipe:
                pipe.mset(dict.fromkeys(keys, state))
                pipe.execute()
        if taken:
            consumer.commit(asynchronous=True)
    consumer.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
