"""The straightforward loop: poll, pydantic, a Redis hash per customer, River, one event at a time.

    python loop.py PLACE.json

At least once: offsets are stored after the work, and committed once a second. `setting.pipelined`:
commands of an event go to Redis together, as whoever has measured it would send them.
"""

import json
import math
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer
from pydantic import BaseModel
from redis import Redis
from river.cluster import KMeans
from river.preprocessing import StandardScaler

DAY_MS = 86_400_000
COUNTED = {"Order Completed": "orders", "Product Viewed": "views", "Product Added": "adds"}


class Properties(BaseModel):
    total: float | None = None


class Call(BaseModel):
    type: str
    event: str
    messageId: str  # noqa: N815 (as in the calls)
    userId: str  # noqa: N815
    timestamp: datetime
    properties: Properties


class Segmenter:
    """Counts in Redis, segments by River."""

    def __init__(self, job: dict[str, Any], redis: Redis, *, pipelined: bool) -> None:
        self.days: int = job["days"]
        self.redis, self.pipelined = redis, pipelined
        self.now: dict[int, int] = defaultdict(int)
        self.missing = {axis["name"]: axis["missing"] for axis in job["axes"]}
        scaler, kmeans = StandardScaler(), KMeans(len(job["centroids"]))
        self.scale: Callable[[dict[str, float]], dict[str, float]] = scaler.transform_one
        self.predict: Callable[[dict[str, float]], int] = kmeans.predict_one
        for axis in job["axes"]:
            scaler.counts[axis["name"]] = 1
            scaler.means[axis["name"]] = axis["mean"]
            scaler.vars[axis["name"]] = axis["scale"] ** 2
        for number, centroid in enumerate(job["centroids"]):
            kmeans.centers[number].update(zip(self.missing, centroid, strict=True))

    def take(self, partition: int, value: bytes) -> dict[str, Any] | None:
        """The change that follows from a call, if one does."""
        call = Call.model_validate_json(value)
        time = round(call.timestamp.timestamp() * 1000)
        now = self.now[partition] = max(self.now[partition], time)
        today = now // DAY_MS
        if time // DAY_MS <= today - self.days:
            return None
        key = f"customer:{call.userId}"
        added = {}
        if what := COUNTED.get(call.event):
            added[f"{what}:{time // DAY_MS}"] = 1
            if what == "orders":
                cents = round((call.properties.total or 0) * 100)
                added[f"cents:{time // DAY_MS}"] = cents
        fields = self.count(key, added)
        ordered = int(fields.get("ordered", 0))
        if call.event == "Order Completed" and time > ordered:
            ordered = time
            self.redis.hset(key, "ordered", time)
        segment = self.segment(key, fields, ordered, now)
        before = fields.get("segment")
        if before is not None and int(before) == segment:
            return None
        self.redis.hset(key, "segment", segment)
        return {
            "customer": call.userId,
            "from": None if before is None else int(before),
            "to": segment,
            "at": datetime.fromtimestamp(now / 1000, UTC).isoformat(),
            "event": call.messageId,
        }

    def count(self, key: str, added: dict[str, int]) -> dict[str, str]:
        """Add to fields of a customer's hash; all of it as it is then."""
        if not self.pipelined:
            for name, number in added.items():
                self.redis.hincrby(key, name, number)
            return dict(self.redis.hgetall(key))  # type: ignore[arg-type]
        pipe = self.redis.pipeline()
        for name, number in added.items():
            pipe.hincrby(key, name, number)
        pipe.hgetall(key)
        *_, fields = pipe.execute()
        return dict(fields)

    def segment(self, key: str, fields: dict[str, str], ordered: int, now: int) -> int:
        """The nearest one; days that have left the window are deleted."""
        total = {"orders": 0, "cents": 0, "views": 0, "adds": 0}
        gone = []
        for name, number in fields.items():
            what, _, day = name.partition(":")
            if not day:
                continue
            if int(day) > now // DAY_MS - self.days:
                total[what] += int(number)
            else:
                gone.append(name)
        if gone:
            self.redis.hdel(key, *gone)
        spend = total["cents"] / 100
        raw = {
            "recency": (now - ordered) / DAY_MS if ordered else None,
            "orders": total["orders"],
            "spend": spend,
            "views": total["views"],
            "adds": total["adds"],
            "basket": spend / total["orders"] if total["orders"] else None,
        }
        x = {n: math.log1p(self.missing[n] if v is None else v) for n, v in raw.items()}
        return self.predict(self.scale(x)) + 1


def main(place: dict[str, Any]) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": place["bootstrap"],
            "group.id": place["group"],
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1000,
        }
    )
    producer = Producer({"bootstrap.servers": place["bootstrap"]})
    redis = Redis.from_url(place["redis"], decode_responses=True)
    segmenter = Segmenter(place["job"], redis, pipelined=place["setting"]["pipelined"])
    consumer.subscribe([place["input"]])
    running = True

    def stop(*_: object) -> None:
        nonlocal running
        running = False

    signal.signal(signal.SIGTERM, stop)
    while running:
        message = consumer.poll(0.1)
        if message is None or message.error():
            continue
        change = segmenter.take(message.partition() or 0, message.value() or b"")
        if change is not None:
            producer.produce(place["output"], json.dumps(change), change["customer"])
            producer.poll(0)
        consumer.store_offsets(message)
    producer.flush()
    consumer.close()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
