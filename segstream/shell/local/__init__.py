"""Real Kafka and Valkey as child processes, for the demo, `segstream up`, tests and benchmarks.

No Docker, no Java on the PATH, no root: the servers come from the extra `local`.
Everything they write is below one directory; the same directory again means the same data.
They die with this process, whatever kills it.
"""

from segstream.shell.local.children import Server
from segstream.shell.local.jars import LocalUnavailable, fetch
from segstream.shell.local.kafka import LASTING
from segstream.shell.local.servers import Servers, local_servers

__all__ = ["LASTING", "LocalUnavailable", "Server", "Servers", "fetch", "local_servers"]
