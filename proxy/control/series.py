"""The table of metrics: every series that `proxy.control.metrics` shows, and what it means.

`python -m proxy.control.series` prints it as docs/reference/metrics.md. Conventions are those of
Prometheus: base units, counters end in `_total`, one 0/1 series for each state.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

PREFIX = "rdp_proxy_"
OTHER = "other"  # where a label has no value
LIVE_COUNTERS = frozenset(  # counted by those who own them
    {
        "adoptions_refused_total",
        "adoptions_total",
        "bytes_total",
        "config_reloads_total",
        "host_certificate_changes_total",
    }
)


class Series(NamedTuple):
    """One family: what it is and which labels it has. Histograms have buckets."""

    kind: str
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LIFE_S = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400)

SERIES: dict[str, Series] = {
    "connections_accepted_total": Series(
        "counter", ("listener",), "Client TCP connections accepted."
    ),
    "connections_placed_total": Series(
        "counter",
        ("listener", "pool", "reason"),
        "Connections that a session host answered, by the reason why they went there.",
    ),
    "connections_ended_total": Series(
        "counter",
        ("listener", "phase", "side", "cause"),
        "Connections ended: how far they had come, who ended them, and why.",
    ),
    "tokens_total": Series(
        "counter", ("listener", "fate"), "Connection Requests, by what became of their token."
    ),
    "collections_total": Series(
        "counter",
        ("listener", "alias"),
        "Connection Requests that ask for a collection, by its alias; other: none of the listener.",
    ),
    "repinned_total": Series(
        "counter", ("pool", "cause"), "Connections whose pin could not be followed, by why."
    ),
    "pins_moved_total": Series(
        "counter", ("pool", "cause"), "Pins that changed their host after placement, by why."
    ),
    "host_failures_total": Series(
        "counter",
        ("pool", "host", "cause"),
        "Session hosts that refused, reset or stayed silent towards a client.",
    ),
    "suspected_certificate_mismatch_total": Series(
        "counter",
        ("pool", "host"),
        "Clients that left a host, it seems, because its certificate was not the expected one.",
    ),
    "redirect_loops_total": Series(
        "counter",
        ("pool", "host"),
        "Clients that tokens sent on again and again, by the last host.",
    ),
    "negotiations_total": Series(
        "counter",
        ("pool", "answer"),
        "Security protocol that hosts selected, or the failure code they gave.",
    ),
    "bytes_total": Series(
        "counter",
        ("pool", "host", "direction"),
        "Bytes carried: up is from client to host, down from host to client.",
    ),
    "affinity_store_failures_total": Series(
        "counter", (), "Questions that the affinity store did not answer."
    ),
    "affinity_disagreements_total": Series(
        "counter",
        ("pool",),
        "Clients placed while the affinity table was away who turned out to be pinned elsewhere.",
    ),
    "affinity_events_total": Series(
        "counter",
        ("event",),
        "What befell the affinity table: set aside as corrupt, pins evicted, maintenance failed.",
    ),
    "connect_seconds": Series(
        "histogram", ("pool",), "TCP connect to the session host that answered.", _SECONDS
    ),
    "placement_seconds": Series(
        "histogram",
        ("pool",),
        "From the complete Connection Request until a host has answered.",
        _SECONDS,
    ),
    "answer_seconds": Series(
        "histogram", ("pool",), "From the request sent until the host's first byte.", _SECONDS
    ),
    "connection_duration_seconds": Series(
        "histogram", ("pool",), "Life of established connections, taken at their end.", _LIFE_S
    ),
    "event_loop_lag_seconds": Series(
        "histogram", (), "How much later than asked the event loop ran a timer.", _SECONDS
    ),
    "connections_active": Series(
        "gauge", ("pool", "host"), "Connections to a session host now, those being set up included."
    ),
    "host_up": Series(
        "gauge",
        ("pool", "host"),
        "1 while health calls the session host up and its agent does not say that it is down.",
    ),
    "host_will": Series(
        "gauge", ("pool", "host", "will"), "1 for what the operator wants of a host, else 0."
    ),
    "wills_known": Series(
        "gauge",
        (),
        "1 while the node knows, from the table or from before its start, what the operator wants "
        "of hosts; 0: it takes all as ready.",
    ),
    "host_short_lived": Series(
        "gauge",
        ("pool", "host"),
        "1 while all connections to the session host end within 15 s, else 0.",
    ),
    "host_agent_up": Series(
        "gauge", ("pool", "host"), "1 while the agent on the session host answers (health.agent)."
    ),
    "host_agent_will": Series(
        "gauge", ("pool", "host", "will"), "1 for what the agent of a host wants of it, else 0."
    ),
    "host_agent_percent": Series(
        "gauge", ("pool", "host"), "The part of its weight that the agent of a host asks for."
    ),
    "host_waiting_clients": Series(
        "gauge", ("pool", "host"), "Clients that belong to a host and wait, since it is full."
    ),
    "host_will_since_timestamp_seconds": Series(
        "gauge",
        ("pool", "host"),
        "When the operator said so, Unix time; absent where he never did.",
    ),
    "host_drain_deadline_timestamp_seconds": Series(
        "gauge", ("pool", "host"), "When a drain that has a deadline should be over, Unix time."
    ),
    "host_certificate_not_after_timestamp_seconds": Series(
        "gauge", ("pool", "host"), "When the certificate that a host shows ends, Unix time."
    ),
    "host_certificate_info": Series(
        "gauge",
        ("pool", "host", "fingerprint", "self_signed"),
        "1; the certificate that a host shows, by its SHA-256 fingerprint.",
    ),
    "host_certificate_changes_total": Series(
        "counter", ("pool", "host"), "How many times a host showed another certificate than before."
    ),
    "pool_certificates_distinct": Series(
        "gauge",
        ("pool",),
        "How many certificates the hosts of a pool show; absent until each of them was heard of.",
    ),
    "host_negotiation_info": Series(
        "gauge",
        ("pool", "host", "answer", "flags", "tls"),
        "1; what a host selects or refuses with, what it says it can do, and its TLS version.",
    ),
    "canary_up": Series(
        "gauge",
        ("pool", "host"),
        "1 while a connection with the host's token meets the host's own certificate; absent where "
        "the canary does not try the host.",
    ),
    "held_clients": Series(
        "gauge", (), "Clients that wait: no host of their pool is up, or theirs is full."
    ),
    "shared_sources": Series(
        "gauge", (), "Sources that turned out to be many people (affinity.shared_after)."
    ),
    "config_reload_success": Series(
        "gauge",
        (),
        "1 while the configuration file is in force; 0 where its latest state was refused.",
    ),
    "config_last_reload_timestamp_seconds": Series(
        "gauge", (), "When the configuration in force was taken, Unix time."
    ),
    "config_reloads_total": Series(
        "counter",
        ("outcome",),
        "Attempts to take the configuration file again, by what came of them.",
    ),
    "hosts_adopted": Series(
        "gauge",
        ("pool",),
        "Hosts that nobody has listed and that tokens named in token.networks; at most 1,000.",
    ),
    "adoptions_total": Series(
        "counter",
        ("pool",),
        "Hosts that were adopted since the front's start, each time they were.",
    ),
    "adoptions_refused_total": Series(
        "counter",
        ("pool",),
        "Tokens that were refused because the pool has adopted as many hosts as it may.",
    ),
    "dns_name_up": Series(
        "gauge", ("dns_name",), "1 while the latest lookup of a host's DNS name found addresses."
    ),
    "affinity_store_up": Series("gauge", (), "1 while the affinity store answers."),
    "affinity_pins": Series(
        "gauge", (), "Pins in the affinity table, about; absent while the store does not answer."
    ),
    "relay_up": Series("gauge", ("relay",), "1 while the relay process is attached."),
    "relay_connections": Series("gauge", ("relay",), "Connections in the hands of a relay."),
    "open_files": Series("gauge", (), "Open files of the front process."),
    "open_files_limit": Series("gauge", (), "Most files that the front process may open."),
    "start_time_seconds": Series("gauge", (), "When the front process started, Unix time."),
    "build_info": Series("gauge", ("version", "python"), "1; what is running."),
}


def reference() -> str:
    """docs/reference/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "`metrics.bind` serves these at `/metrics`. They hold nothing private: who connected is",
        "told by the log. Labels are bounded by the configuration.",
        "",
        "Made by `python -m proxy.control.series`; do not edit.",
        "",
        "| Name | Kind | Labels | Meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, series in SERIES.items():
        labels = ", ".join(f"`{label}`" for label in series.labels)
        lines.append(f"| `{PREFIX}{name}` | {series.kind} | {labels} | {series.text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
