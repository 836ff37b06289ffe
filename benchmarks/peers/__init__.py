"""The same work by others, in the same run: `python -m benchmarks peers`. Start with `job.py`.

`job.py` says what the work is, and computes it a second time, plainly: the oracle. `loop.py`,
`quix.py`, `streams/Peer.java` and `floor.py` are programs as their users would write them, each by
itself; segstream gets the same job as a configuration (`segstream.toml`, `model.py`).
"""
