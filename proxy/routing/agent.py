"""What an agent on a session host says of it: HAProxy's agent-check text, one line.

    up ready 75% maxconn:40 #12 sessions

Words in any order between blanks or commas, whatever their case; what follows a `#` is for people.
[HAProxy configuration manual 5.2, agent-check]

    75%                   the part of its weight that it should get
    maxconn:40            most connections to it; 0 takes that back
    ready, drain, maint   its own will
    up                    it serves
    down, fail, stopped   it does not

Whatever a line does not speak of stays as it was, so only the agent takes back what it has said. A
host whose agent is silent is judged by health checks.

Invariants: pure; `since` is seconds since the epoch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from proxy.routing.will import Will

LINE_MAX_BYTES = 512
_DETAIL_MAX = 120
_WILLS = {"ready": Will.READY, "drain": Will.DRAIN, "maint": Will.MAINTENANCE}
_DOWN = frozenset({"down", "fail", "failed", "stopped"})


@dataclass(frozen=True, slots=True)
class AgentWord:
    """What the agent of one host has said until now.

    Attributes:
        will: what it wants, apart from what the operator wants.
        down: whether it says that the host does not serve.
        percent: of the weight.
        max_connections: None where it has said nothing of them.
        detail: for people.
        since: when it last changed its will, or whether it is down.
    """

    will: Will = Will.READY
    down: bool = False
    percent: int = 100
    max_connections: int | None = None
    detail: str = ""
    since: float = 0.0

    def and_now(self, line: bytes, now: float) -> AgentWord:
        """The same after one more line, which ends at the first CR or LF.

        Raises:
            ValueError: not one word of it means anything.
        """
        text = re.split(r"[\r\n]", line.decode("utf-8", "replace"), maxsplit=1)[0]
        words, _, detail = text.partition("#")
        said = replace(self, detail=_printable(detail))
        understood = 0
        for word in re.split(r"[ \t,]+", words.lower()):
            later = _told(said, word)
            understood += later is not None
            said = later or said
        if not understood:
            raise ValueError(f"not an agent's line: {_printable(text)!r}")
        turned = (said.will, said.down) != (self.will, self.down)
        return replace(said, since=now) if turned else said


def _told(said: AgentWord, word: str) -> AgentWord | None:
    """What one word makes of it; None for one that means nothing."""
    if word in _WILLS:
        return replace(said, will=_WILLS[word])
    if word == "up" or word in _DOWN:
        return replace(said, down=word != "up")
    if share := re.fullmatch(r"([0-9]{1,4})%", word):
        return replace(said, percent=int(share[1]))
    if most := re.fullmatch(r"maxconn:([0-9]{1,7})", word):
        return replace(said, max_connections=int(most[1]) or None)
    return None


def _printable(text: str) -> str:
    return "".join(char for char in text.strip() if char.isprintable())[:_DETAIL_MAX]
