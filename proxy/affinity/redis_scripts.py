"""The rules of the table once more, in Lua: what runs inside of Redis, and what comes back.

A pin is one hash under one key: `h` host, `e` expiry, `t` last touch, `c` last claim, `n` last
node, `a` its touch, `o` the last touch by any other (`proxy.affinity.entry` has the rules and the
reasons; the same tests run over both). Times are whole milliseconds since the epoch, `inf` where
a pin never expires.

Each script names one key, so it runs as it is in a Cluster, and all of it happens at once. It goes
by the server's own clock, TIME: nodes whose clocks differ by a minute would break each other's
guards. (Scripts may ask the time and then write since Redis 5: what they did is replicated, not
that they ran.) An expired pin is one that Redis has deleted; the comparison in the preamble serves
tests, which bring a clock of their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1

from proxy.affinity.store import Pin

FIELDS = (b"h", b"e", b"t")  # what makes a Pin

_PREAMBLE = """
local key, now = KEYS[1], tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local found = redis.call('HMGET', key, 'h', 'e', 't', 'c', 'n', 'a', 'o')
if found[1] and tonumber(found[2]) <= now then
  redis.call('DEL', key)
  found = {}
end
local host, expires, touched = found[1], tonumber(found[2] or 0), tonumber(found[3] or 0)
local is_fixed = expires == math.huge

local function text(number)
  return string.format('%.0f', number)
end

local function pin(to, ttl)
  expires = (host == to) and math.max(expires, now + ttl) or now + ttl
  host, touched = to, now
end

local function save(...)
  redis.call('HSET', key, 'h', host, 'e', text(expires), 't', text(touched), ...)
  if expires == math.huge then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIRE', key, text(expires - now))
  end
  return {host, text(expires), text(touched)}
end

local function save_use(node)
  if found[5] and found[5] ~= node then
    return save('n', node, 'a', text(now), 'o', found[6])
  end
  return save('n', node, 'a', text(now))
end
"""


Command = tuple[str | bytes | int, ...]


@dataclass(frozen=True)
class Script:
    """A script that servers know by its digest once it is loaded."""

    body: str
    source: bytes = field(init=False)
    sha: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", (_PREAMBLE + self.body).encode())
        object.__setattr__(self, "sha", sha1(self.source).hexdigest().encode())  # noqa: S324

    def call(self, key: bytes, now: bytes, *args: bytes) -> Command:
        """The command that runs it on `key`; an empty `now` is the server's."""
        return ("EVALSHA", self.sha, 1, key, now, *args)

    def teach(self, key: bytes, now: bytes, *args: bytes) -> Command:
        """The same for a server that does not know the script (any more)."""
        return ("EVAL", self.source, 1, key, now, *args)


# host, expected (empty: none), ttl -> the pin in force
CLAIM = Script("""
local may_replace = not is_fixed or tonumber(ARGV[4]) == math.huge
if host and (host ~= ARGV[3] or not may_replace) then
  pin(host, ARGV[4])
else
  pin(ARGV[2], ARGV[4])
end
return save('c', text(now))
""")

# host, ttl -> the pin in force
ASSIGN = Script("""
if is_fixed and tonumber(ARGV[3]) ~= math.huge then
  pin(host, ARGV[3])
else
  pin(ARGV[2], ARGV[3])
end
return save()
""")

# node, host, ttl -> the host in force
TOUCH = Script("""
if not host or host == ARGV[3] then
  pin(ARGV[3], ARGV[4])
end
return save_use(ARGV[2])[1]
""")

# node, host, expected, quiet, ttl -> whether it moved
MOVE = Script("""
local others_at = found[5] == ARGV[2] and found[7] or found[5] ~= ARGV[2] and found[6]
if host ~= ARGV[4] or is_fixed then
  return 0
end
for _, at in ipairs({found[4] or '-inf', others_at or '-inf'}) do
  if now - tonumber(at) < tonumber(ARGV[5]) then
    return 0
  end
end
pin(ARGV[3], ARGV[6])
save_use(ARGV[2])
return 1
""")

# -> 1 where the server takes writes: no replica, no lack of memory
PROBE = Script("""
redis.call('SET', key, '', 'PX', 1000)
redis.call('DEL', key)
return 1
""")


def milliseconds(seconds: float) -> bytes:
    """A time or a time to live as scripts take it."""
    return b"%.0f" % (seconds * 1000)


def read_pin(values: list[bytes]) -> Pin:
    """The pin that `FIELDS` or a script make up."""
    host, expires, touched = values
    return Pin(host.decode(), float(expires) / 1000, float(touched) / 1000)
