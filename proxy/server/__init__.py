"""The path of a connection: accept, read the request, place, hand off, account.

Sequence and deadlines live here; parsing lives in `wire`, choosing in `routing`.
"""
