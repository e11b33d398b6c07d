"""Routing: which session host a client belongs to, and why.

PURE: no I/O, no clock, no randomness, no logging. What is known of the farm comes in as an
argument, what was judged comes out as a `Decision`.
"""
