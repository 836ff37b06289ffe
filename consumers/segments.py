"""`segstream segments`: what there is, why, and what people call it."""

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consumers.settings import Settings
from consumers.terminal import Json, let_in, out
from segstream.core.lifecycle import told
from segstream.core.output import ms_text
from segstream.core.record import ModelFeature, ModelRecord, ModelSegment, Rename
from segstream.core.rename import Unfit, check
from segstream.ports import Refused
from segstream.shell.models import Models, send_rename

PATIENCE = 10.0
"""Seconds for a trainer to answer; the name comes without it, too."""

app = typer.Typer()


@app.callback(invoke_without_command=True)
def segments(
    context: typer.Context,
    explain: Annotated[
        bool, typer.Option("--explain", help="Who is in each one, and what sets it apart.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The active model: ids, names, sizes, profiles."""
    from consumers import look  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    settings = let_in()
    record, customers = look.active(settings)
    if not explain:
        look.segments(out, record, customers, as_json)
    elif as_json:
        out.print_json(json.dumps(explained(record, customers)))
    else:
        show(out, record, customers)


@app.command()
def rename(
    segment: Annotated[int, typer.Argument(min=1, help="Its id.")],
    name: Annotated[str | None, typer.Argument(help="What it is to be called.")] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Call it what its profile says again.")
    ] = False,
) -> None:
    """Call a segment as people do; the name stays until it is reset."""
    if (name is None) is not reset:
        raise typer.BadParameter("a name is needed, or --reset; not both", param_hint="NAME")
    try:
        wish = wish_of(segment, name)
        out.print(grant(let_in(), wish), markup=False)
    except Unfit as error:
        raise typer.BadParameter(str(error)) from None


# -- renaming -------------------------------------------------------------------------


def wish_of(segment: int, name: str | None) -> Rename:
    """The record to write; Unfit if no segment can be called so."""
    at = ms_text(int(datetime.now(UTC).timestamp() * 1000))
    try:
        return Rename(segment=segment, name=None if name is None else name.strip(), at=at)
    except ValidationError as error:
        if any(problem["loc"] == ("name",) for problem in error.errors()):
            why = "a name has 1 to 60 characters, all of them printable, on one line"
        else:
            why = f"there is no segment {segment}: ids are below 4,294,967,296"
        raise Unfit(why) from None


def grant(settings: Settings, wish: Rename) -> str:
    """Write a wish and wait for the version that fulfils it; what to say about it."""
    topic = settings.topic("segment-models")
    models = Models(settings.kafka, topic)
    try:
        models.refresh()
        if not models:
            raise Refused("there is no model yet, so there is no segment to name")
        wishes = models.renames()
        check(models[max(models)], wish.segment, wish.name, wishes)
        last = wishes.get(wish.segment)
        if fulfilled(models[max(models)], wish) and (last is None or last.name == wish.name):
            return f"nothing to do: {said(models[max(models)], wish)}"
        send_rename(settings.kafka, topic, wish)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            models.refresh()
            newest = models[max(models)]
            if fulfilled(newest, wish):
                return f"{said(newest, wish)}, as of version {newest.model}"
            time.sleep(0.1)
    finally:
        models.close()
    return (
        f"the wish is written, but no trainer has answered in {PATIENCE:.0f} s: "
        "the name comes as soon as one works"
    )


def fulfilled(record: ModelRecord, wish: Rename) -> bool:
    for segment in record.segments:
        if segment.segment == wish.segment:
            by_person = segment.named_by == "person"
            return by_person and segment.name == wish.name if wish.name else not by_person
    return False


def said(record: ModelRecord, wish: Rename) -> str:
    name = next(s.name for s in record.segments if s.segment == wish.segment)
    by = "" if wish.name else " by its profile"
    return f"segment {wish.segment} is called {name!r}{by}"


# -- explaining -----------------------------------------------------------------------


class Trait(NamedTuple):
    """A segment's values of one feature, in the feature's own unit."""

    feature: str
    median: float | None
    mean: float | None
    average: float | None  # of the panel
    times: float | None  # mean / average
    effect: float | None  # in standard deviations


def traits(segment: ModelSegment, features: list[ModelFeature]) -> list[Trait]:
    """What sets it apart most comes first."""
    found = []
    for feature in features:
        mean, average = segment.means.get(feature.name), feature.average
        positive = mean is not None and average is not None and mean >= 0 and average > 0
        times = round(mean / average, 2) if positive and mean is not None and average else None
        effect = segment.effects.get(feature.name)
        median = segment.profile.get(feature.name)
        found.append(Trait(feature.name, median, mean, average, times, effect))
    return sorted(found, key=lambda trait: -abs(trait.effect or 0))


def rule_text(segment: ModelSegment) -> str:
    """How far the rule may be believed."""
    rule = segment.rules
    if rule is None:
        return "no short rule tells them apart"
    parts = ["approximately: "] if rule.approximate else []
    parts.append(rule.text)
    if rule.covers is not None:
        right = "" if rule.precision is None else f", and {rule.precision:.0%} of those are members"
        parts.append(f" (true of {rule.covers:.0%} of its members{right})")
    return "".join(parts)


def explained(record: ModelRecord, customers: Mapping[int, int]) -> dict[str, Any]:
    """All that `--explain` tells, for programs."""
    names = {r.segment: r.name for r in record.retired}
    names |= {s.segment: s.name for s in record.segments}
    return {
        "model": record.model,
        "at": record.at,
        "segments": [
            {
                "segment": s.segment,
                "name": s.name,
                "named_by": s.named_by,
                "customers": customers.get(s.segment, 0),
                "share": s.share,
                "rules": None if s.rules is None else s.rules.model_dump(),
                "features": [trait._asdict() for trait in traits(s, record.features)],
                "fate": None if s.fate is None else {**s.fate.model_dump(), "text": told(s, names)},
            }
            for s in by_size(record, customers)
        ],
    }


def by_size(record: ModelRecord, customers: Mapping[int, int]) -> list[ModelSegment]:
    return sorted(record.segments, key=lambda s: (-customers.get(s.segment, 0), s.segment))


def show(console: Console, record: ModelRecord, customers: Mapping[int, int]) -> None:
    """The same for people."""
    names = {r.segment: r.name for r in record.retired}
    names |= {s.segment: s.name for s in record.segments}
    for segment in by_size(record, customers):
        number = customers.get(segment.segment, 0)
        by = ", named by people" if segment.named_by == "person" else ""
        head = f"[bold]{escape(segment.name)}[/bold] #{segment.segment}{by}"
        console.print(f"{head}: {number:,} customers, {segment.share:.0%} of the panel")
        console.print(f"  who: {rule_text(segment)}", markup=False, soft_wrap=True)
        if text := told(segment, names):
            console.print(f"  since the last version: {text}", markup=False, soft_wrap=True)
        console.print(_table(traits(segment, record.features)))
    rules = [s.rules for s in record.segments if s.rules is not None]
    if rules:
        worst = min(rule.recall for rule in rules)
        console.print(
            f"the rules put {rules[0].fidelity:.0%} of all customers where the model does, "
            f"and at least {worst:.0%} of each segment",
            style="dim",
        )


def _table(found: list[Trait]) -> Table:
    table = Table()
    for name in ("feature", "median", "mean", "all", "× all", "effect"):
        table.add_column(name, justify="left" if name == "feature" else "right")
    for trait in found:
        numbers = (trait.median, trait.mean, trait.average)
        table.add_row(
            trait.feature,
            *("–" if v is None else f"{v:,.4g}" for v in numbers),
            "–" if trait.times is None else f"{trait.times:.3g}",
            "–" if trait.effect is None else f"{trait.effect:+.1f} sd",
        )
    return table
