"""Ways to the network, and to sockets of the host's other programs."""

from __future__ import annotations

from arena import Attack, Program, held, played, refused

FAMILIES = {
    "AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17, "AF_RDS": 21, "AF_CAN": 29, "AF_TIPC": 30,
    "AF_BLUETOOTH": 31, "AF_ALG": 38, "AF_VSOCK": 40, "AF_QIPCRTR": 42, "AF_XDP": 44,
}  # fmt: skip


def family(name: str, number: int) -> Program:
    @played(f"a socket of {name}", shared=True)
    def play(attack: Attack) -> None:
        logs = attack.one(f"""
        import socket
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            for protocol in (0, 1, 6, 17, 132):
                try: socket.socket({number}, kind, protocol); print("ESCAPED")
                except PermissionError as e: print("refused", e)
        """).logs
        assert logs.count("refused") == 20, logs

    return play


PROGRAMS: list[Program] = [
    *(family(*item) for item in FAMILIES.items()),
    held("""
    import socket
    made = 0
    for number in range(46):
        try: socket.socket(number, socket.SOCK_STREAM); print('ESCAPED', number)
        except OSError: made += 1
    made
    """, "a socket of any number", shared=True),
    refused("import socket\nsocket.create_connection(('127.0.0.1', host['port']), .3)\nprint('ESCAPED')", "a connection to the host", shared=True),
    refused("import socket\nsocket.create_server(('127.0.0.1', 0))\nprint('ESCAPED')", "a server", shared=True),
    refused("import urllib.request as u\nu.urlopen(f\"http://127.0.0.1:{host['port']}\", timeout=.3)\nprint('ESCAPED')", "a URL", shared=True),
    refused("import http.client as h\nh.HTTPConnection('127.0.0.1', host['port'], timeout=.3).request('GET', '/')\nprint('ESCAPED')", "HTTP", shared=True),
    refused("import socket\nprint('ESCAPED', socket.getaddrinfo('example.org', 80))", "the name service", shared=True),
    refused("import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', host['port']))\nprint('ESCAPED')", "asyncio"),
    held("""
    import ctypes, socket, struct
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.socket(2, 1, 0)
    address = struct.pack('=HH4s8x', 2, socket.htons(host['port']), bytes([127, 0, 0, 1]))
    print('ESCAPED' if fd >= 0 or libc.connect(fd, address, 16) == 0 else f'refused {ctypes.get_errno()}')
    """, "libc's socket and connect", shared=True),
    held("""
    import socket
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        for address in (host['stream'], host['datagram'], host['abstract']):
            try: pair = socket.socketpair(socket.AF_UNIX, kind)
            except OSError as e: print('refused', e); continue
            for do in ('connect', 'bind'):
                try: getattr(pair[0], do)(address); print('ESCAPED', do)
                except OSError as e: print('refused', e)
    """, "a pair of sockets connected or bound anew", shared=True),
    held("""
    import socket
    for address in (host['datagram'], host['abstract'], host['stream'], '/dev/log', '/run/systemd/journal/socket'):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
            try: one, other = socket.socketpair(socket.AF_UNIX, kind)
            except OSError as e: print('refused', e); continue
            for send in (lambda: one.sendto(b'x', address), lambda: one.sendmsg([b'x'], [], 0, address)):
                try: print('sent' , send())
                except OSError as e: print('refused', e)
    """, "a pair of sockets that sends elsewhere", shared=True),
    held("""
    import socket
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_VSOCK):
        try: socket.socketpair(family, socket.SOCK_STREAM); print('ESCAPED')
        except OSError as e: print('refused', e)
    """, "pairs of sockets of other families", shared=True),
    held("""
    import os, socket, stat
    for fd in range(256):
        try: mode = os.fstat(fd).st_mode
        except OSError: continue
        if not stat.S_ISSOCK(mode): continue
        sock = socket.socket(fileno=os.dup(fd))
        for do in (lambda: sock.connect(host['stream']), lambda: sock.bind('own'), lambda: sock.listen(), lambda: sock.accept()):
            try: do(); print('ESCAPED')
            except OSError as e: print('refused', e)
    """, "its own channel turned into another socket"),
    held("import socket\nprint(socket.gethostname())\nprint(socket.if_nameindex())\nprint('ESCAPED')", "the network's interfaces", shared=True),
    held("print(open('/proc/net/tcp').read(), open('/proc/net/unix').read())", "the network's tables", shared=True),
]  # fmt: skip
