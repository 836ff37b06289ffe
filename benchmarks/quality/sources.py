"""The streams that are measured: the shop with its known truth, a real year, and any file."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

from benchmarks.quality.compare import Truth
from benchmarks.quality.course import DataSet
from consumers.settings import load
from consumers.trainer import training_of
from segstream.core.calendar import DAY, instant_ms
from segstream.core.table import Numbered
from segstream.shell.files import calls, load_mapping
from segstream.shop import Shop

PRESETS = Path(__file__).parents[2] / "segstream" / "presets"
RETAIL_K, SHOP_K = 6, 8
SEEDS = (1, 2, 3)
CUSTOMERS = 1_500


def standard(k: int | None = None) -> list[DataSet]:
    """The runs that are published."""
    return [*(shop(seed, k) for seed in SEEDS), retail(k)]


def shop(seed: int, k: int | None = None, customers: int = CUSTOMERS) -> DataSet:
    """The made-up shop: inflation, a campaign, a new persona, and every customer's persona."""
    made = Shop(seed=seed, customers=customers)
    settings = load({})
    truth, labels = coded((s.customer, s.since_ms, s.persona) for s in made.stays())

    drifts = None
    if made.new_persona is not None and made.inflation is not None:
        first, until = (made.begin + day * DAY for day in (made.new_persona, made.inflation[0]))
        drifts = (first, until)

    def in_order() -> Iterator[Numbered]:
        number = 0
        for day in made.by_day():
            for at, who, line in zip(day.at.tolist(), day.who, day.lines, strict=True):
                number += 1
                yield number, at, who, line.encode()

    return DataSet(
        f"shop-{seed}",
        f"`Shop(seed={seed}, customers={customers})`, {made.days} days",
        settings.definition,
        replace(training_of(settings), k=k or SHOP_K),
        in_order,
        truth,
        labels,
        drifts,
    )


def retail(k: int | None = None) -> DataSet:
    """The real year of orders that comes with segstream."""
    mapping = load_mapping(PRESETS / "retail-year.toml")
    settings = load({})
    return DataSet(
        "retail-year",
        "a real year of a wholesaler's orders (UCI Online Retail), as shipped for the demo",
        settings.definition,
        replace(training_of(settings), k=k or RETAIL_K),
        lambda: calls(PRESETS / "retail-year.csv.xz", mapping),
    )


def of_file(
    path: Path,
    *,
    mapping: Path | None = None,
    truth: Path | None = None,
    config: Path | None = None,
    k: int | None = None,
) -> DataSet:
    """A file of Segment Spec calls, or a table with a mapping. It is sorted by time in memory.

    Calls whose time cannot be read are left out.
    """
    settings = load({} if config is None else {"SEGSTREAM_CONFIG": str(config)})
    read_as = None if mapping is None else load_mapping(mapping)
    training = training_of(settings)
    known, labels = (None, ()) if truth is None else read_truth(truth)

    def in_order() -> Iterable[Numbered]:
        timed = ((ms, call) for call in calls(path, read_as) if (ms := call[1]) is not None)
        return [call for _, call in sorted(timed, key=itemgetter(0))]

    name = path.name.split(".")[0]
    training = replace(training, k=k or training.k)
    return DataSet(name, path.name, settings.definition, training, in_order, known, labels)


def read_truth(path: Path) -> tuple[Truth, tuple[str, ...]]:
    """A CSV with the columns customer, since (ISO 8601 with an offset, or ms) and label."""
    with path.open(encoding="utf-8", newline="") as file:
        found = [(row["customer"], row["since"], row["label"]) for row in csv.DictReader(file)]
    return coded(
        (customer, int(since) if since.isdigit() else instant_ms(since), label)
        for customer, since, label in found
    )


def coded(stays: Iterable[tuple[str, int, str]]) -> tuple[Truth, tuple[str, ...]]:
    """(customer, since in ms, label), in any order → labels as numbers, and their names."""
    found = sorted(stays)
    names = sorted({label for *_, label in found})
    codes = {name: code for code, name in enumerate(names)}
    truth: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for customer, since, label in found:
        truth[customer].append((since, codes[label]))
    return truth, tuple(names)
