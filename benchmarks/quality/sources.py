"""The streams that are measured: the shop with its known truth, a real year, and any file."""

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from operator import itemgetter
from pathlib import Path

from benchmarks.quality.compare import Truth
from benchmarks.quality.course import DataSet
from benchmarks.quality.play import Unusable
from consumers.settings import load
from consumers.trainer import training_of
from segstream.core.calendar import DAY, instant_ms
from segstream.core.config import Definition
from segstream.core.table import Numbered
from segstream.learn import Training
from segstream.shell.files import calls, load_mapping
from segstream.shop import Shop

PRESETS = Path(__file__).parents[2] / "segstream" / "presets"
RETAIL_K, SHOP_K = 6, 8
SEEDS = (1, 2, 3)
CUSTOMERS = 1_500


def standard(k: int | None = None) -> list[DataSet]:
    """The runs that are published."""
    return [*(shop(seed, k) for seed in SEEDS), calm(SEEDS[-1], k), retail(k)]


def shop(seed: int, k: int | None = None, customers: int = CUSTOMERS) -> DataSet:
    """The made-up shop: inflation, a campaign, a new persona, and every customer's persona."""
    settings = load({})
    training = replace(training_of(settings), k=k or SHOP_K)
    return of_shop(Shop(seed=seed, customers=customers), settings.definition, training)


def calm(seed: int, k: int | None = None, customers: int = CUSTOMERS) -> DataSet:
    """A shop in which nothing drifts: customers change personas as they always do."""
    settings = load({})
    made = Shop(seed, customers, new_persona=None, inflation=None, campaign=None)
    training = replace(training_of(settings), k=k or SHOP_K)
    return replace(of_shop(made, settings.definition, training), name=f"calm-{seed}")


def of_shop(made: Shop, definition: Definition, training: Training) -> DataSet:
    """A shop's calls in the order of time, and its truth."""
    truth, labels = coded((s.customer, s.since_ms, s.persona) for s in made.stays())
    end = made.days
    first, until = made.new_persona or end, (made.inflation or (end, end))[0]

    def in_order() -> Iterator[Numbered]:
        number = 0
        for day in made.by_day():
            for at, who, line in zip(day.at.tolist(), day.who, day.lines, strict=True):
                number += 1
                yield number, at, who, line.encode()

    return DataSet(
        f"shop-{made.seed}",
        f"`{made}`",
        definition,
        training,
        in_order,
        truth,
        labels,
        (made.begin + first * DAY, made.begin + max(first, until) * DAY),
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
    """A CSV with a head: customer, since (ISO 8601 with an offset, or ms), and the label.

    Unusable names the line that cannot be read.
    """
    found = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        for row in islice(rows, 1, None):
            try:
                customer, since, label = row
                since_ms = int(since) if since.isdigit() else instant_ms(since)
            except ValueError as error:
                raise Unusable(
                    f"{path}, line {rows.line_num}: {error}. Each line has three fields: customer, "
                    "since (2024-01-31T00:00:00Z, or milliseconds), label"
                ) from error
            found.append((customer, since_ms, label))
    return coded(found)


def coded(stays: Iterable[tuple[str, int, str]]) -> tuple[Truth, tuple[str, ...]]:
    """(customer, since in ms, label), in any order → labels as numbers, and their names."""
    found = sorted(stays)
    names = sorted({label for *_, label in found})
    codes = {name: code for code, name in enumerate(names)}
    truth: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for customer, since, label in found:
        truth[customer].append((since, codes[label]))
    return truth, tuple(names)
