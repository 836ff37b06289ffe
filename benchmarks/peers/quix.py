"""Quix Streams, exactly once: a dictionary of days per customer in its RocksDB state.

    python quix.py PLACE.json

`setting.commit_interval` in seconds is what its users tune: a transaction per interval.
"""

import json
import math
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quixstreams import Application, State, message_context

DAY_MS = 86_400_000
COUNTED = {"Order Completed": 0, "Product Viewed": 2, "Product Added": 3}


class Segmenter:
    """What is done with each call."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.days: int = job["days"]
        self.axes = [(a["missing"], a["mean"], a["scale"]) for a in job["axes"]]
        self.centroids: list[list[float]] = job["centroids"]
        self.now: dict[int, int] = defaultdict(int)

    def take(self, call: dict[str, Any], state: State) -> dict[str, Any] | None:
        """The change that follows from a call, if one does."""
        time = round(datetime.fromisoformat(call["timestamp"]).timestamp() * 1000)
        partition = message_context().partition
        now = self.now[partition] = max(self.now[partition], time)
        since = now // DAY_MS - self.days
        if time // DAY_MS <= since:
            return None
        customer = state.get("customer") or {"days": {}, "ordered": 0, "segment": None}
        days: dict[str, list[int]] = customer["days"]
        if (what := COUNTED.get(call["event"])) is not None:
            day = days.setdefault(str(time // DAY_MS), [0, 0, 0, 0])
            day[what] += 1
            if what == 0:
                day[1] += round(call["properties"]["total"] * 100)
                customer["ordered"] = max(customer["ordered"], time)
        for number in [n for n in days if int(n) <= since]:
            del days[number]
        before, customer["segment"] = customer["segment"], self.segment(customer, now)
        state.set("customer", customer)
        if before == customer["segment"]:
            return None
        return {
            "customer": call["userId"],
            "from": before,
            "to": customer["segment"],
            "at": datetime.fromtimestamp(now / 1000, UTC).isoformat(),
            "event": call["messageId"],
        }

    def segment(self, customer: dict[str, Any], now: int) -> int:
        """The nearest one."""
        orders = cents = views = adds = 0
        for o, c, v, a in customer["days"].values():
            orders, cents, views, adds = orders + o, cents + c, views + v, adds + a
        spend = cents / 100
        recency = (now - customer["ordered"]) / DAY_MS if customer["ordered"] else None
        basket = spend / orders if orders else None
        raw = (recency, orders, spend, views, adds, basket)
        z = [
            (math.log1p(missing if x is None else x) - mean) / scale
            for (missing, mean, scale), x in zip(self.axes, raw, strict=True)
        ]
        distances = [math.dist(z, centroid) for centroid in self.centroids]
        return distances.index(min(distances)) + 1


def main(place: dict[str, Any]) -> None:
    app = Application(
        place["bootstrap"],
        consumer_group=place["group"],
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=place["setting"]["commit_interval"],
        state_dir=place["directory"],
        producer_extra_config={"compression.type": "lz4", "linger.ms": 5},
        loglevel="WARNING",
    )
    calls = app.topic(place["input"], value_deserializer="json", key_deserializer="str")
    changes = app.topic(place["output"], value_serializer="json", key_serializer="str")
    stream = app.dataframe(calls).apply(Segmenter(place["job"]).take, stateful=True)
    stream.filter(lambda change: change is not None).to_topic(changes)
    app.run()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
