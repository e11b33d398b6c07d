"""Explain: where a client would go, and why, told step by step.

It asks the same rules as a running proxy (`routing.decide.RULES`) about hosts that are all up and
idle. Nothing is dialled, no DNS name is resolved, and the affinity table is not opened: a pin
that matters is given by hand.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import asdict, dataclass

from proxy.address import Address
from proxy.routing.decide import RULES, Question, named_addresses
from proxy.routing.farm import Farm
from proxy.routing.key import affinity_key, is_within
from proxy.routing.model import Decision, Reason, TokenFate
from proxy.routing.routes import Routes
from proxy.settings import Balance, ListenerSettings, RouteBy, Settings
from proxy.wire.incomplete import Incomplete
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import (
    ConnectionRequest,
    Protocol,
    encode_connection_request,
    parse_connection_request,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rule said; `decides` for the first that had a decision."""

    rule: str
    decides: bool
    words: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A host that would be tried; they are tried in order."""

    host: str
    address: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that `explain` has to say."""

    listener: str
    client: str
    request: dict[str, str | None]
    rules: list[Verdict]
    reason: str
    token_fate: str
    pool: str
    key: str | None
    candidates: list[Candidate]
    notes: list[str]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    def as_text(self) -> str:
        lines = [f"Client {self.client} at listener {self.listener}", "", "Request"]
        lines += _columns([(name, text or "-") for name, text in self.request.items()])
        lines += ["", "Rules"]
        lines += _columns(
            [(v.rule, f"decides: {v.words}" if v.decides else v.words) for v in self.rules]
        )
        lines += ["", "Decision"]
        lines += _columns(
            [
                ("reason", self.reason),
                ("token", self.token_fate),
                ("pool", self.pool),
                ("affinity key", self.key or "-"),
            ]
        )
        lines += ["", "Candidates, in this order" if self.candidates else "No host is tried."]
        lines += _columns([(c.host, c.address) for c in self.candidates])
        if self.notes:
            lines += ["", "Notes", *(f"  {note}" for note in self.notes)]
        return "\n".join(lines)


def explain(
    settings: Settings,
    *,
    client: str,
    listener: str | None = None,
    request_hex: str | None = None,
    token: str | None = None,
    user: str | None = None,
    destination: str | None = None,
    pin: str | None = None,
) -> Explanation:
    """Where `client` (an IP address) would go.

    Args:
        listener: by name; the first one by default.
        request_hex: the client's Connection Request, as a capture shows it.
        token, user: in place of it: a routing token (see `token_line`), the name in the cookie.
        destination: the address that the client dials.
        pin: the host that the affinity table names for this client.

    Raises:
        ValueError: an argument cannot be read.
        WireError: the request is malformed; its cause is what a running proxy would count.
    """
    chosen = _listener(settings, listener)
    source = _source(client)
    request = _request(request_hex, token, user)
    farm = Farm(settings)
    for name in farm.names:  # they are not asked, and stand for themselves
        farm.resolved(name, [name])
    routes = farm.routes[chosen.name]
    text, dialled = request.routing_token, _destination(chosen, routes, destination)
    named = guest = None
    for address in named_addresses(text, dialled):
        adopter = routes.adopter_of(address)
        guest = guest or (adopter.guest(address) if adopter else None)
        named = named or routes.named_by(address) or guest
    pool = routes.pool_named(named.pool) if named else routes.pool_of(text)
    key = affinity_key(pool.settings.affinity, source, request.user).primary
    question = Question(routes, pool, text, dialled, key, pin=pin, guest=guest)
    rules, decision = _ask(question)
    return Explanation(
        listener=chosen.name,
        client=str(source),
        request=_fields(request),
        rules=rules,
        reason=decision.reason,
        token_fate=decision.fate,
        pool=decision.pool.name,
        key=key,
        candidates=[Candidate(host.name, str(host.address)) for host in decision.candidates],
        notes=_notes(chosen, source, request, question, decision)
        + _on_destination(chosen, destination),
    )


def _destination(listener: ListenerSettings, routes: Routes, dialled: str | None) -> Address | None:
    """As `server.destination.dialled_host`; which addresses a node has itself is not looked up."""
    if dialled is None:
        return None
    try:
        address = Address.parse(dialled, 3389)
        host = ipaddress.ip_address(address.host)
    except ValueError:
        raise ValueError(f"{dialled!r} is not an IP address that a client dials") from None
    if listener.route_by is not RouteBy.DESTINATION:
        return None
    is_vip = is_within(host, listener.vips) and routes.named_by(address) is None
    return None if is_vip else address


def token_line(text: str) -> bytes:
    """A routing token's line, from what an operator has at hand.

    That is the line itself, `msts=…` or its bare value, or the address that it shall name.

    Raises:
        ValueError: no token can be made of it.
    """
    text = text.strip("\r\n")
    if not text.strip():
        raise ValueError("the token is empty")
    if re.fullmatch(r"\d{1,10}\.\d{1,5}\.\d{0,4} *", text):
        text = f"Cookie: msts={text}"
    elif text.lower().startswith("msts="):
        text = f"Cookie: {text}"
    elif re.fullmatch(r"\d+\.\d+\.\d+\.\d+(:\d+)?", text):
        return encode_msts(Address.parse(text, 3389))
    if "\r\n" in text:
        raise ValueError("a token is one line")
    return text.encode("utf-8", "surrogateescape")


def _listener(settings: Settings, name: str | None) -> ListenerSettings:
    for listener in settings.listeners:
        if name in (None, listener.name):
            return listener
    known = ", ".join(listener.name for listener in settings.listeners)
    raise ValueError(f"there is no listener {name!r}; there is {known}")


def _source(client: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        host = client if client.count(":") > 1 and "[" not in client else None
        return ipaddress.ip_address(host or Address.parse(client, 0).host)
    except ValueError:
        raise ValueError(f"{client!r} is not the IP address of a client") from None


def _request(request_hex: str | None, token: str | None, user: str | None) -> ConnectionRequest:
    if request_hex is not None:
        if token is not None or user is not None:
            raise ValueError("the request has its own token and user: give it, or them")
        digits = re.sub(r"[\s:,]|0[xX]", "", request_hex)
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            raise ValueError("the request is not hexadecimal, as in 0300002c27e0…") from None
    else:
        lines = [] if token is None else [token_line(token)]
        lines += [] if user is None else [b"Cookie: mstshash=" + user.encode()]
        data = encode_connection_request(line=b"\r\n".join(lines) if lines else None)
    parsed = parse_connection_request(data)
    if not isinstance(parsed, Incomplete):
        return parsed
    raise ValueError(
        f"the request is cut off: it has {len(data)} bytes, at least {parsed.missing} are missing"
    )


def _ask(question: Question) -> tuple[list[Verdict], Decision]:
    verdicts: list[Verdict] = []
    decision: Decision | None = None
    for name, rule in RULES.items():
        if decision is not None:
            verdicts.append(Verdict(name, decides=False, words="not asked any more"))
            continue
        answer = rule(question)
        if isinstance(answer, Decision):
            decision = answer
            hosts = [host.name for host in answer.candidates]
            first = f"{hosts[0]} comes first" if hosts[1:] else "".join(hosts) or "nobody serves it"
            why = f" ({answer.repin_cause})" if answer.repin_cause else ""
            verdicts.append(Verdict(name, decides=True, words=f"{answer.reason}{why}, {first}"))
        else:
            verdicts.append(Verdict(name, decides=False, words=answer))
    assert decision is not None, "the last rule always decides"
    return verdicts, decision


def _fields(request: ConnectionRequest) -> dict[str, str | None]:
    token, negotiation = request.routing_token, request.negotiation
    offered = None
    if negotiation is not None:
        offered = _protocols(negotiation.requested_protocols)
    return {
        "length": f"{len(request.raw)} bytes",
        "token": token.text if token else None,
        "token form": token.format if token else None,
        "token address": str(token.address) if token and token.address else None,
        "collection": token.collection if token else None,
        "user": request.user,
        "protocols": offered,
        "correlation id": request.correlation_id.hex() if request.correlation_id else None,
    }


def _protocols(offered: int) -> str:
    names = [p.name.lower() for p in Protocol if p.name and offered & p]
    unknown = offered & ~sum(Protocol)
    return ", ".join(names + [f"0x{unknown:x}"] * bool(unknown)) or "rdp"


def _notes(
    listener: ListenerSettings,
    source: ipaddress.IPv4Address | ipaddress.IPv6Address,
    request: ConnectionRequest,
    question: Question,
    decision: Decision,
) -> list[str]:
    notes = []
    if not is_within(source, listener.allow):
        notes.append("This client is closed at once: `allow` of the listener does not hold it.")
    trusted = listener.proxy_protocol.trusted if listener.proxy_protocol else ()
    if is_within(source, trusted):
        notes.append("This address is trusted to send a PROXY header, which names the client.")
    notes += _on_collection(listener, question)
    offered = request.negotiation.requested_protocols if request.negotiation else 0
    if listener.require_tls and not offered:
        notes.append("This client is refused: it offers standard RDP security only.")
    notes += [
        f"{host.name} is listed nowhere: `token.networks` of pool {host.pool} let it be named."
        for host in decision.candidates
        if host.adopted
    ]
    names = [h.name for pool in question.routes.pools for h in pool.hosts if not h.address.is_ip]
    if names and decision.fate is TokenFate.UNKNOWN_HOST:
        notes.append(f"Not compared with the token, since DNS is not asked: {', '.join(names)}.")
    if names and decision.reason is Reason.DESTINATION_REFUSED:
        notes.append(
            f"Not compared with what it dials, since DNS is not asked: {', '.join(names)}."
        )
    ranked = len(decision.candidates) > 1
    if ranked and decision.pool.settings.balance is not Balance.HASH:
        notes.append("Order among the other hosts depends on load; here all of them are idle.")
    if question.key and decision.reason in (Reason.BALANCED, Reason.NO_HOST) and not question.pin:
        notes.append(f"A pin of {question.key} would come first: give it with --pin HOST.")
    return notes


def _on_destination(listener: ListenerSettings, dialled: str | None) -> list[str]:
    if dialled is None or listener.route_by is RouteBy.DESTINATION:
        return []
    return [
        f"{listener.name} does not go by what a client dials: it has no `route_by: destination`."
    ]


def _on_collection(listener: ListenerSettings, question: Question) -> list[str]:
    asked = question.token.collection if question.token is not None else None
    if asked is None or question.routes.alias_of(asked) is not None:
        return []
    known = ", ".join(question.routes.aliases)
    has = f"it has {known}" if known else "it has none"
    return [f"{listener.name} has no collection {asked!r} ({has}): its default pool serves."]


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:{width}}  {text}" for name, text in rows]
