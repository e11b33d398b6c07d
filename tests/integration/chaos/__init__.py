"""Chaos: one running product, steady logins, long sessions, and everything that may befall it.

`python -m tests.integration.chaos` plays it. The parts: `model` (what was done, and whom that may
hurt), `house` (farm, nodes, name server, agents, table), `crowd` (users), `lines` (logs, as they
are written), `audit` (what has to hold), and the operations: `wishes`, `reloads`, `faults`, played
by `play`.
"""
