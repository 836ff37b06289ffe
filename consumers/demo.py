"""`segstream demo`: a real year of a shop, played through real servers, on one screen."""

import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from consumers.processes import Processes, environment_of, processes
from consumers.settings import ClockSettings, Settings
from consumers.setup import local, plan_of, target_of
from segstream.core.record import ModelRecord
from segstream.ports import Unavailable
from segstream.shell import files as calls_file
from segstream.shell.models import Models
from segstream.shell.redis_client import connect
from segstream.shell.replay import Summary, replay
from segstream.shell.topics import create
from segstream.shell.view import Reader, Totals, totals

Stop = Callable[[], bool]

REFRESH_SECONDS = 0.25
LATEST = 8


@dataclass
class Scene:
    """What the screen shows; written by the followers, read by the screen."""

    started: float
    total: int
    lines: int = 0
    sizes: deque[dict[int, int]] = field(default_factory=lambda: deque(maxlen=60))
    latest: deque[Mapping[str, Any]] = field(default_factory=lambda: deque(maxlen=LATEST))
    totals: Totals | None = None
    model: ModelRecord | None = None


class Interrupted(Exception):
    """The user asked to stop."""


def demo(
    settings: Settings, console: Console, stop: Stop, *, as_json: bool
) -> tuple[dict[str, Any], ModelRecord | None]:
    """The figures and the model at the end of the year. Raises Interrupted when stopped before."""
    with tempfile.TemporaryDirectory(prefix="segstream-demo-") as directory:

        def tell(text: str) -> None:
            if stop():  # between any two steps of the start
                raise Interrupted
            console.print(text, style="dim", markup=False)

        past = settings.model_copy(update={"clock": ClockSettings(idle="off")})  # an old year
        with local(past, Path(directory), tell) as here:
            tell("creating topics")
            create(here.kafka, plan_of(here))
            tell("starting two segmenters and a trainer")
            logs = Path(directory) / "processes"
            # What is set in this shell is meant for other servers and another definition.
            with processes(logs, environment_of(here), 2, tell, ("SEGSTREAM_",)) as running:
                show = _Show(here, console, stop, running)
                return show.run(screen=not as_json), show.scene.model


class _Show:
    """One demo under way."""

    def __init__(
        self,
        settings: Settings,
        console: Console,
        stop: Callable[[], bool],
        running: Processes,
    ) -> None:
        self.settings, self.console, self.running = settings, console, running
        self._asked = stop
        self._done = threading.Event()
        self._result: Summary | None = None
        self._error: BaseException | None = None
        self.redis = connect(settings.redis.url)
        self.models = Models(settings.kafka, settings.topic("segment-models"))
        presets = files("segstream.presets")
        self.path = Path(str(presets / "retail-year.csv.xz"))
        self.mapping = calls_file.load_mapping(Path(str(presets / "retail-year.toml")))
        self.scene = Scene(time.monotonic(), calls_file.count(self.path, self.mapping))

    def run(self, *, screen: bool) -> dict[str, Any]:
        threads = [
            threading.Thread(target=self._replay, name="replay"),
            threading.Thread(target=self._follow, name="changes"),
        ]
        try:
            for thread in threads:
                thread.start()
            if screen:
                with Live(console=self.console, auto_refresh=False, screen=False) as live:
                    self._watch(lambda: live.update(draw(self.scene), refresh=True))
            else:
                self._watch(lambda: None)
        finally:
            self._done.set()
            for thread in threads:
                thread.join()
        if self._error is not None:
            raise self._error
        if self._result is None or self._result.stopped:
            raise Interrupted
        self._look()
        return self.figures(self._result)

    def stopped(self) -> bool:
        return self._done.is_set() or self._asked()

    def _replay(self) -> None:
        def progress(lines: int, _: int | None) -> None:
            self.scene.lines = lines

        try:
            self._result = replay(
                calls_file.calls(self.path, self.mapping),
                calls_file.digest(self.path, self.mapping),
                target_of(self.settings),
                total=self.scene.total,
                as_lived=True,
                progress=progress,
                stop=self.stopped,
            )
        except Exception as error:  # noqa: BLE001 (raised again where the user sees it)
            self._error = error
        self._done.set()

    def _follow(self) -> None:
        reader = Reader(self.settings.kafka)
        topic = self.settings.topic("segment-changes")
        try:
            for change in reader.follow(topic, self._done.is_set, beginning=True):
                self.scene.latest.append(change)
        except Unavailable:
            return  # the screen goes on without the latest changes

    def _watch(self, show: Callable[[], None]) -> None:
        while not self._done.wait(REFRESH_SECONDS):
            if self._asked():
                raise Interrupted
            self.running.supervise()
            self._look()
            show()

    def _look(self) -> None:
        try:
            found = totals(self.redis, self.settings.namespace, self.settings.topics.partitions)
            self.models.refresh()
        except Unavailable:
            return  # shown again with the next look
        self.scene.totals = found
        self.scene.sizes.append(dict(found.segments))
        records = self.models.records()
        self.scene.model = records.get(found.model, self.scene.model)

    def figures(self, result: Summary) -> dict[str, Any]:
        """The JSON of `segstream demo --json`."""
        found = self.scene.totals
        if found is None:
            raise Unavailable("Redis did not answer at the end")
        names = segment_names(self.models.records())
        return {
            "events_in": found.events,
            **{n: found.counts[n] for n in ("valid", "dead_letters", "duplicates", "late")},
            "customers": found.customers,
            "changes": dict(found.changes),
            "model_versions": len(self.models.records()),
            "segments": [
                {"id": s, "name": names[s], "size": size} for s, size in found.segments.items()
            ],
            "seconds": round(result.seconds, 3),
            "events_per_second": round(result.lines / result.seconds),
        }


def segment_names(models: Mapping[int, ModelRecord]) -> dict[int, str]:
    """The newest name of every segment that ever was."""
    return {s.segment: s.name for v in sorted(models) for s in models[v].segments}


# -- the screen -----------------------------------------------------------------------


def draw(scene: Scene) -> Group:
    """The whole screen."""
    found = scene.totals
    seconds = max(time.monotonic() - scene.started, 0.001)
    date = f"{_date(found.clock)}" if found and found.clock else "…"
    events = found.events if found else 0
    head = Table.grid(padding=(0, 2))
    head.add_row(
        ProgressBar(total=scene.total, completed=scene.lines, width=40),
        f"{scene.lines / scene.total:4.0%}",
        f"[bold]{date}[/bold]",
        f"{events:,} events",
        f"{events / seconds:,.0f}/s",
        f"{found.customers if found else 0:,} customers",
        f"model {found.model if found else 0}",
    )
    return Group(head, _segments(scene), _latest(scene))


def _date(clock: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(clock / 1000))


def _segments(scene: Scene) -> Panel:
    table = Table(box=None, expand=True)
    table.add_column("segment")
    table.add_column("customers", justify="right")
    table.add_column("share", justify="right")
    table.add_column("trend")
    sizes = scene.totals.segments if scene.totals else {}
    names = _names(scene.model)
    everybody = max(sum(sizes.values()), 1)
    for segment, size in sorted(sizes.items(), key=lambda item: -item[1]):
        before = scene.sizes[0].get(segment, 0) if scene.sizes else size
        name = escape(names.get(segment, "?"))
        table.add_row(
            f"[bold]{name}[/bold] [dim]#{segment}[/dim]",
            f"{size:,}",
            f"{size / everybody:.0%}",
            _trend(size - before),
        )
    if not sizes:
        table.add_row("[dim]warming up: the first model needs 500 customers and a day[/dim]")
    return Panel(table, title="segments", title_align="left", border_style="dim")


def _names(model: ModelRecord | None) -> dict[int, str]:
    if model is None:
        return {}
    retired = {r.segment: f"{r.name} (retired)" for r in model.retired}
    return retired | {s.segment: s.name for s in model.segments}


def _trend(difference: int) -> str:
    if difference == 0:
        return "[dim]·[/dim]"
    arrow, colour = ("▲", "green") if difference > 0 else ("▼", "red")
    return f"[{colour}]{arrow} {abs(difference):,}[/{colour}]"


def _latest(scene: Scene) -> Panel:
    lines = [sentence(change) for change in list(scene.latest)]
    lines += [Text("")] * (LATEST - len(lines))
    return Panel(Group(*lines), title="latest changes", title_align="left", border_style="dim")


def sentence(change: Mapping[str, Any]) -> Text:
    """A change in one line: who, from where to where, why."""
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(change["at"][:16].replace("T", " ") + "  ", "dim")
    text.append(f"{change['customer']:<10} ", "bold")
    text.append(change["from"]["name"] if change["from"] else "(new)")
    text.append(" → ")
    text.append(change["to"]["name"] if change["to"] else "(gone)", "bold")
    text.append(f"  {change['cause']}", "cyan")
    if change["event"]:
        text.append(f" ({change['event']['name']})", "cyan")
    shown = [
        f"{r['feature']} {'missing' if r['value'] is None else format(r['value'], ',.4g')}"
        for r in change["reasons"] or []
    ]
    if shown:
        text.append("  " + ", ".join(shown), "dim")
    return text


def summary(figures: Mapping[str, Any], model: ModelRecord | None) -> Group:
    """What the year looked like, for people who sell things."""
    table = Table(title="Where the customers are at the end of the year", title_justify="left")
    table.add_column("segment")
    table.add_column("customers", justify="right")
    table.add_column("share", justify="right")
    profiles = {s.segment: s.profile for s in model.segments} if model else {}
    features = [f.name for f in model.features] if model else []
    for feature in features:
        table.add_column(feature, justify="right")
    everybody = max(sum(s["size"] for s in figures["segments"]), 1)
    for segment in sorted(figures["segments"], key=lambda s: -s["size"]):
        profile = profiles.get(segment["id"], {})
        values = [profile.get(feature) for feature in features]
        table.add_row(
            segment["name"],
            f"{segment['size']:,}",
            f"{segment['size'] / everybody:.0%}",
            *("–" if v is None else f"{v:,.4g}" for v in values),
        )
    changes = figures["changes"]
    words = (
        f"{figures['events_in']:,} events in {figures['seconds']:.0f} s "
        f"({figures['events_per_second']:,}/s): {figures['valid']:,} valid, "
        f"{figures['dead_letters']:,} without a customer or otherwise unusable (kept in the dead "
        f"letters, with the reason), {figures['duplicates']:,} duplicates, {figures['late']:,} "
        f"late.\n{changes['first']:,} customers entered a segment. "
        f"{changes['behaviour']:,} moves came from what they did, {changes['time']:,} from their "
        f"silence, {changes['model']:,} because the segments themselves moved; "
        f"{changes['forgotten']:,} customers were forgotten after 180 days of silence.\n"
        f"{figures['model_versions']} versions of the model were learned on the way."
    )
    return Group(table, Text(words))
