"""The space in which a version compares customers: how each feature is prepared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from segstream.core.feature import Vectors
from segstream.core.output import number
from segstream.core.record import ModelFeature


@dataclass(frozen=True)
class TrainedFeature:
    """How the trainer prepares a coordinate. `clip`: quantiles; `low`, `high`: words for names."""

    name: str
    expression: str
    transform: Literal["none", "log1p"] = "none"
    fill: float | Literal["median"] = "median"
    weight: float = 1.0
    low: str | None = None
    high: str | None = None
    clip: tuple[float, float] = (0.005, 0.995)


def fit_space(features: Sequence[TrainedFeature], raw: Vectors) -> list[ModelFeature]:
    """Fill, clip, mean and scale of every feature over the panel (raw: float32[n, d])."""
    return [_measure(f, raw[:, j].astype(np.float64)) for j, f in enumerate(features)]


def _measure(feature: TrainedFeature, raw: npt.NDArray[np.float64]) -> ModelFeature:
    known = raw[~np.isnan(raw)]
    if feature.fill == "median":
        fill = float(np.median(known)) if len(known) else 0.0
    else:
        fill = float(feature.fill)
    x = _transformed(np.where(np.isnan(raw), fill, raw), feature.transform)
    lo, hi = (float(bound) for bound in np.quantile(x, feature.clip))
    x = np.clip(x, lo, hi)
    mean, scale = float(x.mean()), float(x.std())
    if scale <= 1e-9 * max(1.0, abs(mean)):  # constant: it must separate nobody, nor divide by 0
        scale = 1.0
    return ModelFeature(
        name=feature.name,
        expression=feature.expression,
        transform=feature.transform,
        clip=(lo, hi),
        fill=fill,
        mean=mean,
        scale=scale,
        weight=feature.weight,
        average=number(known.mean()) if len(known) else None,
    )


def _transformed(x: npt.NDArray[np.float64], transform: str) -> npt.NDArray[np.float64]:
    return np.log1p(np.maximum(x, 0)) if transform == "log1p" else x
