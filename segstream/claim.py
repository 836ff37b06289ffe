"""Claiming a partition: where does it stand, and is the ground still what it was computed on?

Everything that a worker takes for granted while it computes is looked at here, before. Whatever
cannot be continued exactly is Refused, with the way out in the message.
"""

from segstream.core.batch import Checkpoint
from segstream.core.hash import Partitioner
from segstream.ports import Announced, Ports, Published, Refused


class Ground:
    """A topic and a store, as one configuration expects them. All methods may raise Unavailable."""

    def __init__(
        self, ports: Ports, topic: str, partitions: int, partitioner: Partitioner, layout: str
    ) -> None:
        self.source, self.store, self.models = ports.source, ports.store, ports.models
        self.topic, self.layout = topic, layout
        self.partitions, self.partitioner = partitions, partitioner
        self.here = Announced(partitions, partitioner, layout, "")

    def look(self) -> None:
        """Refused if store or topic is not what it was."""
        self.store.check()
        partitions = self.source.partitions()
        if partitions != self.partitions:
            raise Refused(
                f"{self.topic} has {partitions} partitions, {self.partitions} are configured: the "
                "number cannot change, because customers would change their partitions. Go back to "
                "it, or begin anew beside it: docs/operations.md, Changing the definition"
            )
        topic, there = self.source.topic_id(), self.store.announced()
        if there is not None and there.topic not in ("", topic):
            raise Refused(
                f"Redis holds States of another topic that was called {self.topic}: it has the id "
                f"{there.topic}, this one {topic}. If it was created anew on purpose, delete the "
                "namespace's keys in Redis, or use another SEGSTREAM_NAMESPACE"
            )
        self.here = self.here._replace(topic=topic)

    def claim(self, partition: int) -> tuple[Checkpoint, Published]:
        """N and W of a partition, after a look. Leaves word for readers of the store."""
        published = self.source.committed(partition)
        if published is None:
            raise Refused(
                f"partition {partition} of {self.topic} has no published position. "
                "Run `segstream topics create` once; if the group was deleted, see "
                "docs/operations.md: starting from the beginning would publish twice"
            )
        checkpoint = self.store.checkpoint(partition)
        if checkpoint is None:
            checkpoint = Checkpoint(published.origin, 0, self.layout)
        for where, layout in (("Kafka", published.layout), ("Redis", checkpoint.layout)):
            self._require_layout(partition, where, layout)
        self._require_log(partition, checkpoint.offset, published.position.offset)
        if checkpoint.model:
            self._require_model(checkpoint.model)
        self.store.announce(self.here)
        return checkpoint, published

    def _require_layout(self, partition: int, where: str, layout: str) -> None:
        if layout != self.layout:
            raise Refused(
                f"partition {partition} was computed under another configuration: layout "
                f"{layout[:12]} in {where}, {self.layout[:12]} here. Start with the former "
                "configuration, or begin anew beside it: another SEGSTREAM_NAMESPACE and "
                "another topics.prefix, then `segstream topics create` and a replay"
            )

    def _require_log(self, partition: int, stands: int, published: int) -> None:
        start, end = self.source.bounds(partition)
        if stands < start:
            raise Refused(
                f"partition {partition} stands at offset {stands}, the log of {self.topic} begins "
                f"at {start}: records in between are gone. `segstream restore` shows what can be "
                "done: a newer Redis backup, or an approximate new start"
            )
        if max(stands, published) > end:
            raise Refused(
                f"partition {partition} stands at offset {stands} and is published up to "
                f"{published}, the log of {self.topic} ends at {end}: records that were computed "
                "are gone from the log (it was cut, or created anew). Restore the log; otherwise "
                "begin anew under another namespace"
            )

    def _require_model(self, version: int) -> None:
        if version not in self.models.at_hand():
            self.models.find([version])
        if version not in self.models.at_hand():
            raise Refused(
                f"model version {version} is active but not in the topic of models. "
                "Versions must be kept for ever: check that its cleanup.policy is compact"
            )
