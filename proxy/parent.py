"""The parent: `rdp-proxy run`. It makes listening sockets and processes, and outlives them all.

It knows no configuration and serves no client, so it has little to crash with; standard library
only. It starts the front and, when the front asks for them, relays, as fresh interpreters; it
starts again what dies, after a pause that grows while it keeps dying; a front that dies before any
was ready ends the parent with the same code, for then the fault is the operator's to see.

Control channels carry JSON objects with `act`:

    front -> parent   alive · ready · configuration (+ memory file); and with a `number`, which the
                      answer repeats: listen(host, port) · unlisten(host, port) · relays(count)
    parent -> front   greeting (+ memory file of the last front) · relay(index, pid, + channel)
                      answers: `errno` and `error`, or a listening socket, or nothing more
    parent -> relay   front (+ channel) · stop

For each front every relay gets a new channel, one end to each. A listening socket that is asked for
again is the same one, with the clients that wait in its queue. When the parent is gone, the front
ends at once and relays carry on to their last connection.

Signals: SIGTERM and SIGINT stop (the front gets SIGTERM; a second one ends everything within a
second), SIGHUP is passed on. As PID 1 it also reaps orphans. systemd: Type=notify, WatchdogSec.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from proxy import channel
from proxy.notify import Notifier

SILENCE_S = 10.0
START_S = 60.0  # until a front's first word: imports on a busy machine
BACK_OFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
GOOD_LIFE_S = 10.0  # after which the back-off begins anew
BACKLOG = 4096
RELAYS_STOP_S = 2.0
AT_ONCE_S = 1.0
CONTROL_FD = 3  # a child's number of its control channel
_RETRY_S = 0.1
_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def run(front_arguments: list[str]) -> int:
    """Run the product until it is told to stop; return its exit code."""
    front = [sys.executable, "-m", "proxy.app", "--control-fd", str(CONTROL_FD), *front_arguments]
    return Parent(front).run()


@dataclass(slots=True)
class Child:
    """A place for a process: the one that fills it now, and when the next one may."""

    name: str
    command: list[str]
    index: int = 0
    pid: int = 0  # 0: none now
    control: socket.socket | None = None
    outbox: deque[tuple[bytes, int | None]] = field(default_factory=deque)
    started_at: float = 0.0
    heard_at: float | None = None
    deaths: int = 0  # since its last good life
    due_at: float = 0.0


class Parent:
    """All of it. `front_command` is the argument vector of a front; it reads CONTROL_FD."""

    def __init__(self, front_command: list[str], *, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._selector = selectors.DefaultSelector()
        self._front = Child("front", front_command)
        self._relays: list[Child] = []
        self._listening: dict[tuple[str, int], socket.socket] = {}
        self._configuration: int | None = None
        self._ever_ready = False
        self._stops = 0
        self._code: int | None = None  # set when the front has ended for good
        self._kill_at: float | None = None
        self._notify = Notifier()

    def run(self) -> int:
        """Until the front has ended for good and no relay is left."""
        _prepare_descriptors()
        woken, waker = channel.pair()
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in _CAUGHT:
            signal.signal(number, lambda _number, _frame: None)
        self._selector.register(woken, selectors.EVENT_READ, lambda: self._signalled(woken))
        while self._code is None or any(relay.pid for relay in self._relays):
            self._keep()
            asked = time.monotonic() + self._patience()
            for key, _ in self._selector.select(asked - time.monotonic()):
                key.data()
            if time.monotonic() - asked > 1 and self._front.heard_at is not None:
                self._front.heard_at = time.monotonic()  # all of us were stopped, not the front
        return self._code

    # Time

    def _keep(self) -> None:
        """What is due now: starts, silence, the end of a stop, the watchdog."""
        now = time.monotonic()
        self._notify.watchdog(now)
        for child in (self._front, *self._relays):
            self._flush(child)
        if self._code is None:
            for child in (self._front, *self._relays):
                if not child.pid and child.due_at <= now and not self._stops:
                    self._start(child)
            if self._front.pid and self._silent_at() <= now:
                _say("front_silent", pid=self._front.pid)
                self._front.heard_at = now
                _kill(self._front, signal.SIGKILL)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for child in (self._front, *self._relays):
                _kill(child, signal.SIGKILL)

    def _silent_at(self) -> float:
        front = self._front
        if front.heard_at is None:
            return front.started_at + START_S
        return front.heard_at + self._silence_s

    def _patience(self) -> float:
        now = time.monotonic()
        due = [now + 60.0, self._notify.due_at]
        if self._code is None and not self._stops:
            due += [child.due_at for child in (self._front, *self._relays) if not child.pid]
        if self._front.pid:
            due.append(self._silent_at())
        if self._kill_at is not None:
            due.append(self._kill_at)
        if any(child.outbox for child in (self._front, *self._relays)):
            due.append(now + _RETRY_S)
        return max(0.0, min(due) - now)

    # Children

    def _start(self, child: Child) -> None:
        child.started_at = time.monotonic()
        try:
            ours, theirs = channel.pair()
        except OSError as error:
            self._start_failed(child, error)
            return
        child.control, child.heard_at = ours, None
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child, ours))
        try:
            if child is self._front:
                self._post(child, {"act": "greeting", "version": 1}, self._configuration)
            child.pid = os.posix_spawn(
                child.command[0],
                child.command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD)],
                setsigmask=_BLOCKED,
                setsigdef=_CAUGHT,
            )
        except OSError as error:
            self._start_failed(child, error)
            return
        finally:
            theirs.close()
        for relay in self._relays if child is self._front else [child]:
            if relay.pid and self._front.pid:
                self._join(relay)

    def _start_failed(self, child: Child, error: OSError) -> None:
        _say("start_failed", process=child.name, index=child.index, error=str(error))
        self._died(child, 1)

    def _join(self, relay: Child) -> None:
        """Give front and relay a channel of their own."""
        try:
            fronts_end, relays_end = channel.pair()
            with fronts_end, relays_end:
                self._post(relay, {"act": "front"}, relays_end.fileno())
                told = {"act": "relay", "index": relay.index, "pid": relay.pid}
                self._post(self._front, told, fronts_end.fileno())
        except OSError as error:
            _say("join_failed", index=relay.index, pid=relay.pid, error=str(error))

    def _signalled(self, woken: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in woken.recv(1):
                if number in {signal.SIGTERM, signal.SIGINT}:
                    self._stop()
                elif number == signal.SIGHUP:
                    _kill(self._front, signal.SIGHUP)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in (self._front, *self._relays):
                if child.pid == pid:
                    self._died(child, os.waitstatus_to_exitcode(status))

    def _died(self, child: Child, code: int) -> None:
        while child.control is not None and self._hear(child, child.control):
            pass  # its last words
        pid, child.pid = child.pid, 0
        self._let_go(child)
        if self._stops == 0 or (child is self._front and code):
            _say("process_ended", process=child.name, index=child.index, pid=pid, code=code)
        if child is not self._front:
            self._again_later(child)
        elif self._stops or not self._ever_ready:
            self._finish(code if code >= 0 else 128 - code)
        else:
            self._again_later(child)

    def _again_later(self, child: Child) -> None:
        now = time.monotonic()
        if now - child.started_at >= GOOD_LIFE_S:
            child.deaths = 0
        child.due_at = now + BACK_OFF_S[min(child.deaths, len(BACK_OFF_S) - 1)]
        child.deaths += 1

    # Stop

    def _stop(self) -> None:
        self._stops += 1
        self._notify.say("STOPPING=1")
        if self._stops > 1:
            self._kill_at = time.monotonic() + AT_ONCE_S
        if self._front.pid:
            _kill(self._front, signal.SIGTERM)
        elif self._code is None:
            self._finish(0)  # it came between two fronts

    def _finish(self, code: int) -> None:
        self._code = code
        self._kill_at = time.monotonic() + RELAYS_STOP_S
        for relay in self._relays:
            if relay.pid:
                self._post(relay, {"act": "stop"})

    # Messages

    def _hear(self, child: Child, control: socket.socket) -> bool:
        """Read one message; False where there is none."""
        if child.control is not control:
            return False  # let go earlier in this batch
        try:
            message = channel.receive(control)
        except EOFError:
            self._let_go(child)  # it is dying; waitpid tells the rest
            return False
        if message is None:
            return False
        try:
            if child is self._front:
                child.heard_at = time.monotonic()
                self._obey(json.loads(message.data), message.fds)
        except (OSError, ValueError, KeyError) as error:
            _say("message_refused", error=repr(error))
        finally:
            channel.close_all(message.fds)
        return True

    def _obey(self, said: dict[str, object], fds: tuple[int, ...]) -> None:
        act = said.get("act")
        if act == "ready":
            self._ever_ready = True
            self._notify.say(f"READY=1\nMAINPID={os.getpid()}")
        elif act == "configuration" and fds:
            if self._configuration is not None:
                os.close(self._configuration)
            self._configuration = os.dup(fds[0])
        elif act in {"listen", "unlisten", "relays"}:
            answer: dict[str, object] = {"act": act, "number": said["number"]}
            fd = None
            try:
                if act == "listen":
                    fd = self._listen(said)
                elif act == "unlisten":
                    self._unlisten(said)
                else:
                    self._have_relays(int(str(said["count"])))
            except (OSError, OverflowError) as error:
                answer["errno"] = getattr(error, "errno", None) or errno.EINVAL
                answer["error"] = getattr(error, "strerror", None) or str(error)
            self._post(self._front, answer, fd)

    def _listen(self, said: dict[str, object]) -> int:
        host, port = str(said["host"]), int(str(said["port"]))
        if (host, port) not in self._listening:
            alone = ("0.0.0.0", port) not in self._listening
            self._listening[host, port] = _listening_socket(host, port, dual_stack=alone)
        return self._listening[host, port].fileno()

    def _unlisten(self, said: dict[str, object]) -> None:
        sock = self._listening.pop((str(said["host"]), int(str(said["port"]))), None)
        if sock is not None:
            sock.close()

    def _have_relays(self, count: int) -> None:
        command = [sys.executable, "-m", "proxy.relay.process", "--control-fd", str(CONTROL_FD)]
        for index in range(len(self._relays), count):
            self._relays.append(Child("relay", command, index))

    def _post(self, child: Child, said: dict[str, object], fd: int | None = None) -> None:
        """Send, now or as soon as the child reads again. `fd` stays the caller's."""
        if child.control is not None:
            copy = None if fd is None else os.dup(fd)
            child.outbox.append((json.dumps(said).encode(), copy))
            self._flush(child)

    def _flush(self, child: Child) -> None:
        while child.outbox and child.control is not None:
            data, fd = child.outbox[0]
            try:
                if not channel.send(child.control, data, () if fd is None else (fd,)):
                    return
            except OSError:
                return  # it is dying; what waits goes with it
            child.outbox.popleft()
            if fd is not None:
                os.close(fd)

    def _let_go(self, child: Child) -> None:
        if child.control is not None:
            self._selector.unregister(child.control)
            child.control.close()
            child.control = None
        channel.close_all(fd for _, fd in child.outbox if fd is not None)
        child.outbox.clear()


def _listening_socket(host: str, port: int, *, dual_stack: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":  # serves IPv4 clients, too, unless another listener does
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not dual_stack)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _prepare_descriptors() -> None:
    """As many as the system allows, also for the children; none of others' for them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > sys.stderr.fileno():
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(entry.name), False)


def _kill(child: Child, number: signal.Signals) -> None:
    if child.pid:  # not reaped yet, so the number is still its own
        os.kill(child.pid, number)


def _say(event: str, **fields: object) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": at, "level": "warning", "event": event, **fields})
    with contextlib.suppress(OSError):  # nobody reads it: no reason to end
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - the parent has no logger
