"""From the traffic to the job's scaler and centroids, and from the job to segstream's model."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.cluster import KMeans  # type: ignore[import-untyped]

from benchmarks.peers.job import FEATURES, MISSING, Axis, Job, Oracle, features, standardised
from benchmarks.traffic import START_MS, Floats, Traffic
from segstream.core.config import Definition
from segstream.core.output import ms_text
from segstream.core.record import ModelFeature, ModelRecord, ModelSegment, Panel

CONFIG = Path(__file__).with_name("segstream.toml")
SEGMENTS = 6
SAMPLE = 5_000
FAR = 1e9
"""Bounds of clipping that nothing reaches: the job has none."""


def only(traffic: Traffic, which: Any) -> Traffic:
    """The calls that a mask or a slice chooses."""
    return Traffic(traffic.people, *(column[which] for column in traffic[1:]))


def fit(past: Traffic) -> Job:
    """Scaler and centroids of a sample of the customers, as the past leaves them."""
    every = max(1, len(past.people.ids) // SAMPLE)
    some = only(past, past.customer % every == 0)
    oracle = Oracle()
    list(oracle.feed(some.records()))
    raw = [features(customer, START_MS) for customer in oracle.customers.values()]
    plain = [Axis(name, MISSING.get(name, 0.0), 0.0, 1.0) for name in FEATURES]
    points: Floats = np.array([standardised(plain, values) for values in raw])
    axes = [
        axis._replace(mean=float(mean), scale=float(scale))
        for axis, mean, scale in zip(plain, points.mean(axis=0), points.std(axis=0), strict=True)
    ]
    scaled = [standardised(axes, values) for values in raw]
    found = KMeans(SEGMENTS, n_init=1, random_state=0).fit(scaled)
    return Job(axes, found.cluster_centers_.tolist())


def model_of(job: Job, definition: Definition) -> ModelRecord:
    """The job as version 1 of segstream's model."""
    axes = {axis.name: axis for axis in job.axes}
    return ModelRecord(
        model=1,
        parent=None,
        kind="centres",
        at=ms_text(START_MS),
        features=[
            ModelFeature(
                name=name,
                expression=feature.expression,
                transform=feature.transform,
                clip=(-FAR, FAR),
                fill=axes[name].missing,
                mean=axes[name].mean,
                scale=axes[name].scale,
                weight=1.0,
            )
            for name, feature in definition.features.items()
        ],
        features_id=definition.features_id(),
        segments=[
            ModelSegment(
                segment=number,
                name=f"segment {number}",
                named_by="person",
                centre=centre,
                size=0,
                share=0.0,
                profile={},
            )
            for number, centre in enumerate(job.centroids, 1)
        ],
        retired=[],
        panel=Panel(customers=0, level=0, at=ms_text(START_MS)),
        quality={},
    ).sealed()
