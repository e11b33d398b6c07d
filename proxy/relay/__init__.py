"""Relays: processes that own established connections and carry their bytes.

`contract` is what front and relay say to each other; `hand_off` is the front's side; `process` is
the relay's, made of `pump` (bytes), `legs` (sockets) and `reports` (what fronts are told).
"""
