"""Household: all that a parent has, and that its successor takes over by an exec.

Values and bookkeeping only: what happens when is `proxy/parent.py`, and `proxy/upgrade.py` for an
upgrade. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from proxy import channel
from proxy.child import Child, Role, python
from proxy.listening import ListeningSockets
from proxy.notify import say


class Household:
    """The children, the listening sockets and the configuration.

    Attributes:
        front: it serves, or is to.
        next: in an upgrade the front that is to serve, until it is ready.
        trial: in an upgrade the process that tries the installed code.
        relays: by their index.
        leaving: fronts and relays that were replaced and that end when they have done.
        relays_wanted: how many the front asked for.
        configuration: a memory file that the last front left for its successor.
        ever_ready: whether any front was.
    """

    def __init__(self, front_command: list[str]) -> None:
        self.front_command = front_command
        self.front = Child(Role.FRONT, front_command)
        self.next: Child | None = None
        self.trial: Child | None = None
        self.relays: list[Child] = []
        self.leaving: list[Child] = []
        self.relays_wanted = 0
        self.listening = ListeningSockets()
        self.configuration: int | None = None
        self.ever_ready = False

    @property
    def fronts(self) -> list[Child]:
        """Those that serve or are to, the newest last."""
        return [self.front] if self.next is None else [self.front, self.next]

    @property
    def children(self) -> list[Child]:
        """All; older relays come before newer ones."""
        trial = [] if self.trial is None else [self.trial]
        return [*self.fronts, *trial, *self.leaving, *self.relays]

    def start(self, child: Child) -> None:
        """Start a child's process and make it known to the others.

        Raises:
            OSError: nothing was started.
        """
        if child.role is Role.FRONT:
            anew = child is self.next
            child.start(({"act": "greeting", "version": 1, "anew": anew}, self.configuration))
            for relay in (*self.leaving, *self.relays):
                self._join(child, relay)
        else:
            child.start()
            for front in self.fronts:
                self._join(front, child)

    def _join(self, front: Child, relay: Child) -> None:
        """Give front and relay a channel of their own."""
        if not front.pid or not relay.pid or relay.role is not Role.RELAY:
            return
        told = {"index": relay.index, "pid": relay.pid, "retired": relay.retired}
        try:
            fronts_end, relays_end = channel.pair()
            with fronts_end, relays_end:
                relay.post({"act": "front"}, relays_end.fileno())
                front.post({"act": "relay", **told}, fronts_end.fileno())
        except OSError as error:
            say("join_failed", index=relay.index, pid=relay.pid, error=str(error))

    def have_relays(self, count: int) -> None:
        """As many places for relays; more than that stay until they are replaced."""
        self.relays_wanted = count
        self.relays += [_relay(index) for index in range(len(self.relays), count)]

    def replace_relays(self) -> None:
        """New places for all that are wanted; who fills the old ones leaves."""
        self.leaving += [relay for relay in self.relays if relay.pid]
        self.relays = [_relay(index) for index in range(self.relays_wanted)]

    def promote(self) -> None:
        """The next front serves, the one before it leaves, where it still is."""
        if self.next is not None:
            if self.front.pid:
                self.leaving.append(self.front)
                self.front.post({"act": "retire"})
            self.front, self.next = self.next, None

    def relay_is_ready(self, pid: object) -> None:
        """A relay has told all of its rows to the front, which gives those before it no more."""
        for relay in self.relays:
            if relay.pid == pid:
                relay.ready = True
                for old in self.leaving:
                    old.retired = old.retired or old.index == relay.index

    def keep_configuration(self, fd: int) -> None:
        """In place of the one before; `fd` stays the caller's."""
        if self.configuration is not None:
            os.close(self.configuration)
        self.configuration = os.dup(fd)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs in a successor, with the numbers of `descriptors`."""
        return {
            "front": self.front.state(),
            "relays": [relay.state() for relay in self.relays],
            "leaving": [[child.role, child.state()] for child in self.leaving],
            "relays_wanted": self.relays_wanted,
            "listening": self.listening.state(),
            "configuration": self.configuration,
        }

    def descriptors(self) -> list[int]:
        """Those that `state` names."""
        fds = [fd for child in self.children for fd in child.descriptors()]
        fds += [fd for _, _, fd in self.listening.state()]
        return fds if self.configuration is None else [self.configuration, *fds]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what a predecessor had when its front was ready."""
        relay = _relay(0).command
        command = {Role.FRONT: self.front_command, Role.RELAY: relay}
        self.front = Child.restored(Role.FRONT, self.front_command, state["front"])
        self.relays = [Child.restored(Role.RELAY, relay, one) for one in state["relays"]]
        self.leaving = [
            Child.restored(Role(role), command[Role(role)], one) for role, one in state["leaving"]
        ]
        self.relays_wanted = state["relays_wanted"]
        self.listening.restore(state["listening"])
        self.configuration = state["configuration"]
        self.ever_ready = True


def _relay(index: int) -> Child:
    return Child(Role.RELAY, python("proxy.relay.process"), index)
