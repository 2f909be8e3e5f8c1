"""The gateway's door: passes TCP connections on to it, and reads nothing of them.

    python -I door.py PORT HOST:PORT

Compose can't publish a port of a container on an internal network, and a container on any other network can
send out. So the gateway has the internal network only, and this program, in a container of its own that runs
nothing else, has a foot in both. Guaranteed: a side that doesn't read isn't read from.
"""

import asyncio
import contextlib
import signal
import sys

CHUNK = 1 << 16


async def carry(reader, writer):
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()


async def serve(port, host, target):
    async def connection(reader, writer):
        with contextlib.closing(writer), contextlib.suppress(OSError):
            inner_reader, inner_writer = await asyncio.open_connection(host, target)
            with contextlib.closing(inner_writer):
                ways = [carry(reader, inner_writer), carry(inner_reader, writer)]
                done, rest = await asyncio.wait(
                    [asyncio.create_task(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
                )
                for task in rest:
                    task.cancel()
                await asyncio.gather(*done, *rest, return_exceptions=True)

    server = await asyncio.start_server(connection, "0.0.0.0", port, limit=CHUNK, backlog=1024)  # noqa: S104
    await server.serve_forever()


def main():
    port, (host, _, target) = int(sys.argv[1]), sys.argv[2].rpartition(":")
    for number in (signal.SIGTERM, signal.SIGINT):  # as pid 1 it would ignore them
        signal.signal(number, lambda *_: sys.exit(0))
    asyncio.run(serve(port, host, int(target)))


if __name__ == "__main__":
    main()
