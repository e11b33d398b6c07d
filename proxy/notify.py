"""What the parent tells: to systemd that the product is ready, alive, or stopping (sd_notify(3)),
and to the log what befell its children.

Only the main process speaks to systemd (NotifyAccess=main). Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time


class Notifier:
    """systemd's notification socket (sd_notify(3)), where there is one."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        usec = int(os.environ.get("WATCHDOG_USEC", "0")) if self._path else 0
        self._usec = usec
        self._period_s = usec / 2_000_000
        self.due_at = time.monotonic() if usec else float("inf")

    def say(self, text: str) -> None:
        """Send one notification. A manager that is away or busy is no reason to end or to wait."""
        if self._path:
            path = "\0" + self._path[1:] if self._path.startswith("@") else self._path
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            with sock, contextlib.suppress(OSError):
                sock.sendto(text.encode(), path)

    def watchdog(self, now: float, *, stopping: bool = False) -> None:
        """The loop turns. A stop takes as long as it was configured: the manager's own limit is put
        off as long as the loop turns."""
        if now >= self.due_at:
            more = f"\nEXTEND_TIMEOUT_USEC={self._usec}" if stopping else ""
            self.say(f"WATCHDOG=1{more}")
            self.due_at = now + self._period_s


def say(event: str, *, level: str = "warning", **fields: object) -> None:
    """Write a line of the log; the parent has no logger."""
    now = time.time()  # noqa: TID251  (a log line's)
    at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03}Z"
    said = {"time": at, "level": level, "event": event, **fields}
    line = json.dumps(said, separators=(",", ":"))  # as the front writes its own
    with contextlib.suppress(OSError):  # nobody reads it: no reason to end
        print(line, file=sys.stderr, flush=True)  # noqa: T201
