"""Runs localstripe in a network namespace of its own, since it listens on every interface.

argv: the Unix socket to serve it on, and the Unix socket its webhooks to http://127.0.0.1:9000 are passed to."""

import asyncio
import fcntl
import socket
import struct
import sys
import threading

from localstripe import resources, server

PORT, WEBHOOKS = 8420, 9000
serve_on, webhooks_to = sys.argv[1:]


async def pipe(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def passed_on(connect):
    async def connected(reader, writer):
        try:
            there_reader, there_writer = await connect()
        except OSError:
            writer.close()
            return
        await asyncio.gather(pipe(reader, there_writer), pipe(there_reader, writer))

    return connected


async def forward():
    await asyncio.start_unix_server(passed_on(lambda: asyncio.open_connection("127.0.0.1", PORT)), serve_on)
    await asyncio.start_server(passed_on(lambda: asyncio.open_unix_connection(webhooks_to)), "127.0.0.1", WEBHOOKS)
    await asyncio.Event().wait()


def by_time(list_all):
    """Of its lists, that of events can be asked for a time; those of payments and refunds fail on `created`. So they are asked
    without it, and what does not fit is left out before it makes pages, as it does itself with events."""

    def fitting(url, created=None, **asked):
        found = list_all(url, **asked)
        bounds = {name: int(at) for name, at in (created or {}).items()}
        fits = lambda one: bounds.get("gte", one.created) <= one.created <= bounds.get("lte", one.created)
        found._list = [one for one in found._list if fits(one)]
        return found

    return fitting


# A new namespace's loopback is down: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING.
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x41))
# It would keep its state in a file that all who run it share.
resources.Store.dump_to_disk = lambda self: None
for listed in resources.PaymentIntent, resources.Refund:
    listed._api_list_all = staticmethod(by_time(listed._api_list_all))
threading.Thread(target=lambda: asyncio.run(forward()), daemon=True).start()
sys.argv = ["localstripe", "--from-scratch", "--port", str(PORT)]
server.start()
