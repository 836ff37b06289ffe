"""Write segstream/shell/local/kafka-jars.lock: `python scripts/lock_kafka_jars.py 4.1.2`."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

from jgo.maven import MavenContext, PythonResolver

LOCK_FILE = Path(__file__).parents[1] / "segstream" / "shell" / "local" / "kafka-jars.lock"
HEAD = """\
# The jars of Apache Kafka {version} (broker and storage tool): group:artifact:version sha256
# Written by scripts/lock_kafka_jars.py; do not edit.
"""


def main(version: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        context = MavenContext(resolver=PythonResolver(), repo_cache=Path(directory), timeout=30)
        kafka = context.create_dependency(f"org.apache.kafka:kafka_2.13:{version}")
        # Kafka alone: resolved together with another root, that root's own dependency management
        # would choose Kafka's versions too (log4j's brings kafka-clients 3.9).
        roots, needed = context.resolver.resolve([kafka])
        artifacts = [dependency.artifact for dependency in (*roots, *needed)]
        # Kafka logs through slf4j but does not name a binding for it.
        [log4j] = [artifact for artifact in artifacts if artifact.artifactId == "log4j-core"]
        binding = context.project(log4j.groupId, "log4j-slf4j-impl").at_version(log4j.version)
        artifacts.append(binding.artifact())
        wrong = [a for a in artifacts if a.groupId == "org.apache.kafka" and a.version != version]
        if wrong:
            sys.exit(f"not of Kafka {version}: {', '.join(map(str, wrong))}")
        lines = []
        for artifact in artifacts:
            digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            lines.append(f"{coordinate} {digest}\n")
    LOCK_FILE.write_text(HEAD.format(version=version) + "".join(sorted(lines)), "ascii")
    print(f"{len(lines)} jars in {LOCK_FILE}")


if __name__ == "__main__":
    main(*sys.argv[1:])
