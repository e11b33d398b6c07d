"""Raw non-blocking sockets on the path: options, connect, receive, send.

Not asyncio's streams and transports, which read ahead: the path reads exactly one request and
then hands both sockets to a relay, so not one byte may stay in user space. And not the loop's own
`sock_connect`, which resolves numeric addresses in a thread on uvloop (three times the cost).

Works on asyncio and uvloop alike. What may have to wait takes `until`, the loop's time at which the
caller's phase is over (never, where the caller has another way to stop), and raises TimeoutError
then; else OSError as the system gives it. Callers say whose fault it is.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from math import inf

from proxy.address import Address, canonical_host
from proxy.errors import Cause
from proxy.waits import READABLE, WRITABLE, Waits

OWN_WANT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_ORIGINAL_DST = 80  # <linux/netfilter_ipv4.h>, <linux/netfilter_ipv6/ip6_tables.h>
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close by reset


def peer_of(name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """The Address in what accept() or getsockname() returned; IPv4-mapped becomes IPv4."""
    if ":" not in name[0]:
        return Address(name[0], name[1])
    return Address(canonical_host(name[0].partition("%")[0]), name[1])


def dialled(sock: socket.socket) -> Address:
    """The address that the peer of an accepted connection has dialled.

    Where this machine's own NAT has redirected it here (nftables `redirect` or `dnat`), that is
    what it was before: SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST of Linux's connection tracking,
    struct sockaddr_in or sockaddr_in6. Else it is the local end.
    """
    local = peer_of(sock.getsockname())
    is_v4 = ":" not in local.host
    level, size = (socket.SOL_IP, 16) if is_v4 else (socket.IPPROTO_IPV6, 28)
    try:
        found = sock.getsockopt(level, _ORIGINAL_DST, size)
    except OSError:  # this kernel, or this connection, is not tracked
        return local
    port = int.from_bytes(found[2:4], "big")
    if is_v4:
        return Address(socket.inet_ntop(socket.AF_INET, found[4:8]), port)
    return Address(canonical_host(socket.inet_ntop(socket.AF_INET6, found[8:24])), port)


def prepare(sock: socket.socket, keepalive_s: float) -> None:
    """Options of both legs: no delay for small packets, and keepalive.

    What a listening socket has, those that it accepts inherit (Linux, sk_clone_lock). Firewalls and
    cloud balancers forget idle connections after minutes (350 s at AWS); RDP connections idle for
    hours.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    idle = max(1, round(keepalive_s))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // 4))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def is_own(address: Address) -> bool:
    """Whether a numeric address is one of this machine's: the kernel takes itself for the source
    then. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(address)
            return bool(sock.getsockname()[0] == address.host)
    except OSError:  # no way leads there, or this kernel has no such family
        return False


def leads_to(address: Address, bind: Address) -> bool:
    """Whether connections to a numeric address come to what this machine has bound at `bind`."""
    if address.port != bind.port:
        return False
    takes_all = bind.host == "::" or (bind.host == "0.0.0.0" and ":" not in address.host)
    return is_own(address) if takes_all else address.host == bind.host


def unconnected(address: Address) -> socket.socket:
    """A non-blocking socket that can be connected to a numeric address."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


async def connect(
    address: Address, until: float = inf, own: socket.socket | None = None
) -> socket.socket:
    """A connected non-blocking socket to a numeric address; `own`, where the caller made one."""
    sock = own or unconnected(address)
    try:
        code = sock.connect_ex((address.host, address.port))
        if code == errno.EINPROGRESS:
            await Waits.here().one(sock.fileno(), WRITABLE, until)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        sock.close()
        raise
    if code:
        sock.close()
        raise OSError(code, errno.errorcode.get(code, "connect failed"))
    return sock


async def receive(sock: socket.socket, size: int, until: float = inf) -> bytes:
    """At most `size` bytes, at least one; b"" at the end of the stream."""
    while True:
        try:
            return sock.recv(size)
        except (BlockingIOError, InterruptedError):
            await Waits.here().one(sock.fileno(), READABLE, until)


async def send(sock: socket.socket, data: bytes, until: float = inf) -> None:
    """All of `data`."""
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except (BlockingIOError, InterruptedError):
            await Waits.here().one(sock.fileno(), WRITABLE, until)


async def wait_first(server: socket.socket, client: socket.socket, until: float = inf) -> bool:
    """Wait until `server` has something to read; False where the client left before that.

    A client that sends more instead of waiting is not watched any longer: its bytes stay in the
    socket.
    """

    def left() -> bool:
        return has_hung_up(client)

    return await Waits.here().first(server.fileno(), client.fileno(), left, until)


def has_hung_up(sock: socket.socket) -> bool:
    """Whether the peer has closed or reset by now; looks without waiting, reads nothing."""
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except (BlockingIOError, InterruptedError):
        return False
    except OSError:
        return True


def reset(sock: socket.socket) -> None:
    """Close at once; the peer sees a reset."""
    with contextlib.suppress(OSError):  # closed by the peer meanwhile
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def cause_of(error: OSError) -> Cause:
    """What an error on the way to a host means; INTERNAL where it is for want of our own.

    No descriptors, memory or ports left here: that says nothing of the host.
    """
    match error:
        case TimeoutError():
            return Cause.TIMEOUT
        case ConnectionRefusedError():
            return Cause.REFUSED
        case ConnectionResetError() | BrokenPipeError():
            return Cause.RESET
        case _:
            return Cause.INTERNAL if error.errno in OWN_WANT else Cause.UNREACHABLE
