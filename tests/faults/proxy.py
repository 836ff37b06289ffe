"""A TCP proxy that lies: between our processes and a real server, it loses, delays and cuts.

with Proxy(6379) as proxy:
    proxy.lose(b"EXEC")     # the next such request is carried out, its reply never arrives
    proxy.delay = 0.2       # seconds, of everything
    proxy.cut()             # all connections, now
    proxy.refusing = True   # new connections
    proxy.deaf = {"up"}     # requests vanish, the connections stay ("down": replies); cut after
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

HOST = "127.0.0.1"
CHUNK = 1 << 16
TAIL = 64

Direction = Literal["up", "down"]


@dataclass(eq=False)
class Connection:
    """Two streams; `doomed` once a request has passed whose reply is to be lost."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    doomed: bytes | None = None
    tail: bytes = b""  # of the last chunk: a word may be cut in two

    def close(self) -> None:
        self.client.close()
        self.server.close()


@dataclass
class Proxy:
    """Listens on `port` (0: any) for the server on `target`, which may be set later."""

    target: int = 0
    port: int = 0
    delay: float = 0.0
    refusing: bool = False
    deaf: set[Direction] = field(default_factory=set)
    lost: list[bytes] = field(default_factory=list)  # the words whose replies were lost
    _words: list[bytes] = field(default_factory=list)
    _connections: set[Connection] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._listener = self._run(asyncio.start_server(self._serve, HOST, self.port))
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.refusing = True
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def lose(self, word: bytes) -> None:
        """Lose the reply of the next request with this word in it; several may be waiting."""
        self._loop.call_soon_threadsafe(self._words.append, word)

    def cut(self) -> None:
        """Close all connections; returns when they are closed."""
        self._run(self._cut())

    # -- in the loop's thread ---------------------------------------------------------

    def _run(self, call: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(10)

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.close()

    async def _end(self) -> None:
        self._listener.close()
        await self._cut()
        while self._connections:
            await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self.refusing:
            client.close()
            return
        try:
            replies, server = await asyncio.open_connection(HOST, self.target)
        except OSError:
            client.close()
            return
        connection = Connection(client, server)
        self._connections.add(connection)
        try:
            await asyncio.gather(
                self._pass(connection, reader, server, "up"),
                self._pass(connection, replies, client, "down"),
            )
        finally:
            self._connections.discard(connection)

    async def _pass(
        self,
        connection: Connection,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        direction: Direction,
    ) -> None:
        """One direction of a connection; the end of one is the end of both."""
        with suppress(OSError):
            while chunk := await source.read(CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if direction in self.deaf:
                    continue
                if direction == "up":
                    self._note(connection, chunk)
                elif connection.doomed is not None:
                    self.lost.append(connection.doomed)
                    break
                target.write(chunk)
                await target.drain()
        connection.close()

    def _note(self, connection: Connection, chunk: bytes) -> None:
        seen = connection.tail + chunk
        connection.tail = seen[-TAIL:]
        for word in self._words:
            if word in seen:
                self._words.remove(word)
                connection.doomed, connection.tail = word, b""
                break
