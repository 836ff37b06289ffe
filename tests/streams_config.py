"""Random configurations and versions of a Model for tests/streams.py."""

import hashlib
import json
from dataclasses import dataclass
from random import Random
from typing import Any

from tests.oracle_reading import duration_ms

NAMES = ("frequent", "lapsed", "new", "occasional", "big baskets", "visitors", "Größe M", "silent")
MEASURES: dict[str, dict[str, Any]] = {
    "orders": {"kind": "count", "events": ["Order Completed"]},
    "spend": {"kind": "sum", "events": ["Order Completed"], "field": "properties.total"},
    "paid": {"kind": "sum", "events": ["Order Completed"], "field": "properties.total"},
    "visits": {"kind": "count", "calls": ["page", "screen"]},
    "channels": {
        "kind": "distinct",
        "events": ["Order Completed", "Product Viewed"],
        "field": "properties.channel",
        "values": ["web", "shop", "app", "Straße"],
    },
    "nps": {"kind": "last", "events": ["Survey Answered"], "field": "properties.score"},
}
MONEY = {
    "base": "EUR",
    "rates": {
        "2026-03-01": {"USD": 0.9, "JPY": 0.006},
        "2026-03-05": {"USD": 0.85, "JPY": 0.0055},
        "2026-03-09": {"USD": 1, "JPY": 0.123456},
    },
}
TRAITS: dict[str, dict[str, Any]] = {
    "country": {"kind": "choice", "values": ["DE", "FR", "日本"]},
    "age": {"kind": "number"},
    "size": {"kind": "ordinal", "values": ["S", "M", "L"], "field": "traits.shirt.size"},
}
# Expression, with {a}, {b}, {c} for windows, and a usual size of its value.
FEATURES: dict[str, tuple[str, float]] = {
    "recency": ("recency(orders)", 2.0),
    "orders": ("orders[{a}]", 2.0),
    "spend": ("spend[{b}]", 200.0),
    "paid": ("paid[{a}]", 150.0),
    "basket": ("spend[{a}] / orders[{a}]", 100.0),
    "trend": ("orders[{c}] / max(orders[{a}], 1) - 0.5", 0.5),
    "visits": ("log1p(visits[{b}]) * 2", 2.0),
    "seen": ("min(recency(visits), recency(orders))", 1.0),
    "channels": ("channels[{a}] + 1", 2.0),
    "nps": ("nps", 5.0),
    "age": ("(age - 18) / 10", 2.0),
    "size": ("size", 1.0),
    "country": ("country", 1.0),
    "german": ("is_(country, 'DE') - is_(country, '日本')", 1.0),
}


@dataclass(frozen=True)
class Shape:
    """A configuration and the spans that its streams are stretched to, in ms."""

    config: dict[str, Any]
    period: int
    longest: int


def random_shape(rng: Random, partitions: int) -> Shape:
    pane = rng.choice(["1h", "1d"])
    a, b, c = ("24h", "12h", "3h") if pane == "1h" else ("7d", "5d", "2d")
    period = rng.choice(["30m", "6h", "1d"])
    chosen = [name for name in FEATURES if rng.random() < 0.6]
    chosen = [*chosen, "orders"] if "orders" not in chosen else chosen
    rng.shuffle(chosen)
    features: dict[str, dict[str, Any]] = {}
    for name in chosen:
        features[name] = {"expression": FEATURES[name][0].format(a=a, b=b, c=c)}
        if rng.random() < 0.4:
            features[name]["transform"] = rng.choice(["log1p", "none"])
    measures = {name: dict(entry) for name, entry in MEASURES.items()}
    if rng.random() < 0.5:
        measures["spend"]["decimals"] = rng.choice([0, 1, 3])
    traits = {name: dict(entry) for name, entry in TRAITS.items()}
    traits["country"]["in_model"] = rng.random() < 0.4
    money = rng.random() < 0.6
    measures["paid"]["money"] = money
    clear, held = rng.choice([(0.7, 0.9), (0.5, 0.95), (0.3, 0.8)])
    hold = rng.choice(["6h", "1d", "2d", "7d"])
    first = rng.choice([{}, {}, {"first": "1m"}, {"first": "6h"}, {"first": "2d"}])
    config = {
        "tick": {"period": period},
        "pane": {"length": pane},
        "hysteresis": {"clear": clear, "held": held, "hold": hold, **first},
        "panel": {"size": rng.choice([1, 2 * partitions, 4 * partitions, 20_000])},
        "measures": measures,
        "traits": traits,
        "features": features,
        **({"money": MONEY} if money else {}),
    }
    used = [w for w in (a, b, c) if any(f"[{w}]" in f["expression"] for f in features.values())]
    return Shape(config, duration_ms(period), max(duration_ms(w) for w in used))


def canonical_digest(record: dict[str, Any]) -> str:
    body = {name: value for name, value in record.items() if name != "digest"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _features(rng: Random, config: dict[str, Any]) -> list[dict[str, Any]]:
    """A subset of the configured features, scaled so that usual values lie around 0."""
    chance = rng.choice([0.2, 0.4, 0.8])
    names = [name for name in config["features"] if rng.random() < chance]
    features = []
    for name in names or list(config["features"])[:1]:
        usual, log = FEATURES[name][1], rng.random() < 0.4
        clip = [-1.0, 6.0] if log else [-usual, usual * rng.choice([4.0, 50.0])]
        features.append(
            {
                "name": name,
                "expression": config["features"][name]["expression"],
                "transform": "log1p" if log else "none",
                "clip": clip,
                "fill": rng.choice([0.0, usual, 2.5 * usual]),
                "mean": rng.uniform(0.5, 1.5) * (1.0 if log else usual),
                "scale": rng.uniform(0.5, 1.2) * (1.0 if log else usual),
                "weight": rng.choice([1.0, 1.0, 0.5, 2.0]),
            }
        )
    return features


def _name(rng: Random, taken: set[str]) -> str:
    free = [name for name in NAMES if name not in taken]
    return rng.choice(free) if free else f"segment {len(taken)}"


def _segments(
    rng: Random, width: int, parents: list[dict[str, Any]], next_id: int, *, same_space: bool
) -> list[dict[str, Any]]:
    """Most parents survive, moved a little; some are renamed; new ids come in."""
    centres: list[tuple[int, str | None, list[float]]] = []
    for parent in parents:
        if rng.random() < 0.7:
            near = [c + rng.gauss(0, 0.2) for c in parent["centre"]] if same_space else None
            name = parent["name"] if rng.random() < 0.8 else None
            centres.append((parent["segment"], name, near or _point(rng, width)))
    born = max(3 - len(centres), rng.randint(0, 2))
    centres += [(next_id + offset, None, _point(rng, width)) for offset in range(born)]
    if rng.random() < 0.2:  # a tie: two segments in one place
        centres.append((next_id + born, None, list(centres[0][2])))
    rng.shuffle(centres)
    segments: list[dict[str, Any]] = []
    taken = {name for _, name, _ in centres if name}
    for segment, kept, centre in centres:
        name = kept or _name(rng, taken)
        taken.add(name)
        segments.append(
            {
                "segment": segment,
                "name": name,
                "named_by": "profile",
                "centre": centre,
                "size": 10,
                "share": 0.5,
                "profile": {},
                "rules": None,
                "fidelity": None,
                "fate": None,
            }
        )
    return segments


def _point(rng: Random, width: int) -> list[float]:
    return [rng.uniform(-1.5, 1.5) for _ in range(width)]


def random_models(rng: Random, config: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """2 to 5 versions, each the child of the one before; ids are never used again."""
    models: dict[int, dict[str, Any]] = {}
    version, next_id, names = 0, 1, dict[int, str]()
    features: list[dict[str, Any]] = []
    segments: list[dict[str, Any]] = []
    for _ in range(rng.randint(2, 5)):
        parent, version = version or None, version + rng.choice([1, 1, 2])
        same_space = bool(features) and rng.random() < 0.6
        features = features if same_space else _features(rng, config)
        if segments and rng.random() < 0.2 and same_space:  # a person renames: equal centres
            segments = [{**s, "name": f"{s['name']}!", "named_by": "person"} for s in segments]
        else:
            segments = _segments(rng, len(features), segments, next_id, same_space=same_space)
        next_id = max(next_id, *(s["segment"] + 1 for s in segments))
        names.update({s["segment"]: s["name"] for s in segments})
        alive = {s["segment"] for s in segments}
        record = {
            "model": version,
            "parent": parent,
            "kind": "centres",
            "at": "2026-03-01T00:00:00.000Z",
            "features": features,
            "features_id": "list",
            "segments": segments,
            "retired": [
                {"segment": s, "name": name, "heir": None}
                for s, name in names.items()
                if s not in alive
            ],
            "panel": {"customers": 20, "level": 0, "at": "2026-03-01T00:00:00.000Z"},
            "quality": {"silhouette": None},
        }
        models[version] = {**record, "digest": canonical_digest(record)}
    return models
