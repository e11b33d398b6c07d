"""rdp-proxy: the load balancer for Remote Desktop farms.

It reads exactly one packet of each client, the X.224 Connection Request, lands the client on the
right session host, and then only carries bytes. `docs/architecture.md` is the tour of this house.
"""

__version__ = "0.1.0"
