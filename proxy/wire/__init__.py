"""Wire: bytes to values and back, for everything that is read before a client is placed.

PURE: no I/O, no clock, no logging. Every parser takes the bytes seen so far and answers in one of
three ways: a value (which keeps the exact bytes of its message in `raw`), `Incomplete` (how many
more bytes may be read), or `WireError` (why these bytes can never become a message). Nothing else
leaves a parser, whatever the input. A parser never asks for a byte behind its own message, so a
reader that follows it leaves the rest of the stream in the kernel.
"""
