"""The lab: a simulated Remote Desktop farm over real TCP and TLS on loopback.

It drives `rdp-proxy demo`, the integration tests and the benches. Nothing here is on the path of
a client's connection in production.

- `certificates`, `link`: identity of a host; one TCP connection that becomes TLS.
- `mcs`, `redirection`, `activation`: the bytes spoken inside TLS, both directions.
- `broker`, `session_host`, `farm`: the server side. `client`: a client that behaves as mstsc is
  documented to. `balancers`: plain balancers to compare with.
- `gnome`: another server side, with the hand-overs of gnome-remote-desktop.
- `plan`, `child`, `report`, `demo`: the demonstration.

What it is not: there is no desktop in a lab session, and no NLA (hosts select plain TLS). After
licensing a host sends a Demand Active PDU with the least capabilities a client accepts, finishes
the activation and then keeps the connection open.
"""
