"""The loop and segstream between real servers: their changes are the oracle's."""

from itertools import chain
from pathlib import Path

from benchmarks.peers.line_up import line_up
from benchmarks.peers.measure import compare
from benchmarks.peers.pace import Reader
from benchmarks.peers.stand import Run, stand
from tests.servers import needs_local
from tests.test_peers import made


def test_changes_are_the_oracles(tmp_path: Path) -> None:
    needs_local()
    job, what, wanted = made(customers=300, counted=600, zipf=0.7)
    peers, absent = line_up(["segstream", "loop"], print)
    assert len(peers) == 3
    assert not absent
    with stand(tmp_path, print) as on:
        for number, peer in enumerate(peers):
            run = Run(on, peer, job, number)
            on.load(run.input, chain(what.records(), what.paced.records()))
            with run.started():
                readings = run.follow(what.before + len(what.paced))
                reader = Reader(on.servers.bootstrap_servers, run.output, "reader")
                try:
                    reader.wait(len(wanted.changes), 10)
                finally:
                    reader.close()
            run.close()
            found = compare(reader.changes, wanted)
            assert found["changes"] == len(wanted.changes)
            assert found["customers_compared"] > 200
            assert readings[-1].peer > 0
