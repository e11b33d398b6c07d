"""UserNames: how a user's name may stand in the log.

A name is personal, and the log goes to many places. By default it is replaced by a keyed hash
(BLAKE2b, 64 bits): the same name always gives the same hash, so that lines of one user can be
found by somebody who knows the name and has the key (`rdp-proxy hash-user NAME`), and by nobody
else. The key is made once and lies in the state directory, readable by its owner alone.
"""

from __future__ import annotations

import os
import secrets
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from proxy.routing.key import normal_user
from proxy.settings import LogUsers, state_path

KEY_FILE = "log-users.key"
_KEY_BYTES = 32


class UserNames:
    """Turns the name in a client's cookie into fields of a log line."""

    def __init__(self, mode: LogUsers, key: bytes) -> None:
        self._mode = mode
        self._key = key

    def __call__(self, user: str | None) -> dict[str, str]:
        """`user` as it is, `user_hash`, or nothing."""
        if self._mode is LogUsers.OMIT or normal_user(user) is None or user is None:
            return {}
        if self._mode is LogUsers.PLAIN:
            return {"user": user}
        return {"user_hash": hash_user(self._key, user)}


def user_names(mode: LogUsers) -> UserNames:
    """Those of this process's log.

    Raises:
        OSError: the key cannot be had.
    """
    return UserNames(mode, load_key(state_path(KEY_FILE)) if mode is LogUsers.HASH else b"")


@lru_cache(256)  # two lines a connection, and several connections a login
def hash_user(key: bytes, user: str) -> str:
    """Sixteen hexadecimal digits that stand for a name, whatever its case and padding."""
    name = normal_user(user) or ""
    return blake2b(name.encode("utf-8", "replace"), key=key, digest_size=8).hexdigest()


def load_key(path: Path) -> bytes:
    """The key in `path`; it is made where there is none, also when two processes come at once.

    Raises:
        OSError: it can be neither read nor made.
    """
    try:
        return read_key(path)
    except FileNotFoundError:
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
        try:
            os.link(draft, path)  # unlike rename, never replaces what another process made
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return read_key(path)


def read_key(path: Path) -> bytes:
    """The key in `path`; raises OSError where there is none."""
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path} does not hold a key: remove it, and it is made anew")
    return key
