"""The relay process: `python -m proxy.relay.process --control-fd N`.

It owns connections and carries their bytes for as long as they live; fronts come and go. The
parent's control channel (JSON, proxy/parent.py) brings a channel for each new front, and `stop`.

Two fronts overlap in an upgrade: hand-offs are taken from both, and the newest alone hears the
reports. Where it dies while the other is still there, that one is told everything again.

When it ends: at once on `stop`; else, where the parent is gone or a front sent RETIRE, after its
last connection, and after a front has acknowledged its endings: where none is there, while the
parent lives one will come. Signals do not end it: a terminal and a service manager send them to
everybody, and connections are to drain first.
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import socket
import sys
from functools import partial

from proxy import channel
from proxy.errors import Cause, Side
from proxy.relay import contract
from proxy.relay.legs import Connection
from proxy.relay.pump import Pump
from proxy.relay.reports import Reports

_DEAF_TO = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_MESSAGES_A_TURN = 64  # read from a front at once, before the connections have their turn


class RelayProcess:
    """Joins the pump, the reports, and the channels to parent and fronts."""

    def __init__(self, control: socket.socket) -> None:
        self._reports = Reports()
        self._pump = Pump(self._reports.ended, self._reports.progress)
        self._control: socket.socket | None = control
        self._fronts: list[socket.socket] = []  # the newest last
        self._retired = False
        self._stopped = False
        self._pump.open_door(control.fileno(), self._hear_parent)

    def run(self) -> None:
        """Carry bytes until there is nothing left to do."""
        step, flush, pump = self._pump.step, self._reports.flush, self._pump
        while not self._stopped:
            step()
            flush(pump)
            if self._retired and not pump.connections and not self._owes:
                return

    @property
    def _owes(self) -> bool:
        """Whether endings are still to be told to somebody."""
        is_heard = self._control is not None or self._reports.has_front
        return is_heard and bool(self._reports.unacknowledged)

    def _hear_parent(self) -> None:
        if self._control is None:
            return
        try:
            message = channel.receive(self._control)
        except EOFError:
            self._pump.close_door(self._control.detach())
            self._control = None
            self._retired = True
            return
        if message is None:
            return
        said = json.loads(message.data)
        if said["act"] == "front" and message.fds:
            self._meet(channel.adopt(message.fds[0]))
        elif said["act"] == "stop":
            self._stopped = True
        else:
            channel.close_all(message.fds)
            _complain(f"the parent sent what cannot be used: {said}")

    def _meet(self, front: socket.socket) -> None:
        for older in list(self._fronts):
            self._hear_front(older)  # what it has accounted for is not told again
        self._fronts.append(front)
        self._pump.open_door(front.fileno(), partial(self._hear_front, front))
        self._reports.greet(front, self._pump)

    def _lose(self, front: socket.socket) -> None:
        heard = self._reports.speaks_to(front)
        if heard:
            self._reports.forget_front()
        self._reports.lost(front)
        self._fronts.remove(front)
        self._pump.close_door(front.detach())
        if heard and self._fronts:
            self._hear_front(self._fronts[-1])  # what it has accounted for is not told again
        if heard and self._fronts:
            self._reports.greet(self._fronts[-1], self._pump)

    def _hear_front(self, front: socket.socket) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                message = channel.receive(front)
            except EOFError:
                self._lose(front)
                return
            if message is None:
                return
            try:
                said = contract.decode_to_relay(message.data)
            except ValueError as error:
                channel.close_all(message.fds)
                _complain(f"a front sent what cannot be read: {error}")
                continue
            if self._reports.speaks_to(front):
                self._reports.version = contract.version_of(message.data)
            if isinstance(said, contract.HandOff):
                self._take(front, said, message.fds)
            else:
                channel.close_all(message.fds)
                self._obey(said)

    def _obey(self, said: contract.Close | contract.Ack | contract.Retire) -> None:
        match said:
            case contract.Close(conn_id, cause):
                connection = self._pump.connections.get(conn_id)
                if connection is not None:
                    self._pump.close(connection, Side.LOCAL, cause)
            case contract.Ack(conn_ids):
                self._reports.acknowledged(conn_ids)
            case contract.Retire():
                self._retired = True

    def _take(self, front: socket.socket, said: contract.HandOff, fds: tuple[int, ...]) -> None:
        if said.conn_id in self._pump.connections:
            channel.close_all(fds)
            _complain(f"connection {said.conn_id} was handed over twice")
            return
        if len(fds) != 2:  # this process had no room for them
            channel.close_all(fds)
            ending = contract.RelayEnding(Side.LOCAL, Cause.LIMIT, said.bytes_up, said.bytes_down)
            self._reports.refused(said.conn_id, said.record, ending)
            return
        connection = Connection(
            said.conn_id,
            (fds[0], fds[1]),
            (said.bytes_up, said.bytes_down),
            said.record,
            idle_s=said.idle_ms / 1000 or None,
            half_close_s=said.half_close_ms / 1000 or None,
        )
        if not self._reports.speaks_to(front):
            self._reports.handed_over(connection)
        self._pump.add(connection)


def _complain(text: str) -> None:
    sys.stderr.write(f"rdp-proxy relay: {text}\n")


def main() -> None:
    """Entry point of the process."""
    for number in _DEAF_TO:
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="python -m proxy.relay.process")
    parser.add_argument("--control-fd", type=int, required=True)
    process = RelayProcess(channel.adopt(parser.parse_args().control_fd))
    gc.collect()
    gc.disable()  # nothing here makes cycles but connections, which are taken apart by hand
    process.run()


if __name__ == "__main__":
    main()
