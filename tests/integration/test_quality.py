"""What `make quality` measures is what real servers do: the same stream, the same memberships."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.quality import sources
from benchmarks.quality.play import Play
from consumers.settings import load
from consumers.trainer import training_of
from segstream.shell.local import Servers
from segstream.shell.models import read_models
from segstream.shop import Shop
from tests.integration.deployment import Deployment, deployment
from tests.integration.verdict import parsed

CONFIG = 'training = { first_customers = 60, segments = 4, maintain = "7d" }\n'
SEED, CUSTOMERS, DAYS = 7, 150, 60


def memberships(at: Deployment) -> dict[str, int]:
    """The segment that each customer is in, by the newest record of `customer-segments`."""
    found = {
        message.key().decode(): 0 if message.value() is None else parsed(message)["segment"]
        for p in at.partitions
        for message in at.read("customer-segments", p)
    }
    return {customer: segment for customer, segment in found.items() if segment}


def test_the_same_stream_ends_with_the_same_memberships(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    with deployment(servers, tmp_path, unique("quality"), CONFIG) as at:
        at.create()
        at.start("segmenter", "one")
        at.start("trainer", "trainer")
        options = f"--seed {SEED} --customers {CUSTOMERS} --days {DAYS} --as-lived"
        played = at.command("simulate", *options.split())
        assert played.returncode == 0, played.stderr
        assert at.stop("one")[0] == at.stop("trainer")[0] == 0
        versions = read_models(at.kafka, at.topic("segment-models"))
        found = memberships(at)
        settings = load(at.environment)

    shop = replace(Shop(seed=SEED, customers=CUSTOMERS), days=DAYS)
    data = sources.of_shop(shop, settings.definition, training_of(settings))
    play = Play(data.definition, data.training)
    *_, night = play.nights(data.calls())
    # The night is the last one's end; the midnight after it has ticked nobody anew, and a version
    # that came with it has put nobody elsewhere yet.
    assert play.versions == versions
    assert len(versions) > 5
    ended = dict(zip(night.customers, night.emitted.tolist(), strict=True))
    assert found == {customer: segment for customer, segment in ended.items() if segment}
    assert len(set(found.values())) == 4
