"""What the library's errors mean, and which files a URL may name."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from redis import exceptions
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from proxy.affinity.redis_client import RedisClient, explain, is_mistake
from proxy.errors import StoreError
from proxy.redis_url import RedisUrl


def caused_by(cause: Exception) -> Exception:
    """As the library wraps what sockets and TLS say."""
    try:
        try:
            raise cause
        except type(cause):
            raise exceptions.ConnectionError("Error connecting to h:1.")  # noqa: B904
    except exceptions.ConnectionError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("invalid username-password pair"),
        ResponseError("unknown command 'EVALSHA'", status_code="ERR"),
        caused_by(ssl.SSLCertVerificationError("self-signed certificate")),
    ],
)
def test_what_no_waiting_cures_is_a_mistake(error: Exception) -> None:
    assert is_mistake(error)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ConnectionError("max number of clients reached"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError(
            "Error running script (call to f_1): @user_script:1: -OOM command not",
            status_code="ERR",
        ),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        caused_by(ConnectionRefusedError(111, "Connection refused")),
        TimeoutError(),
    ],
)
def test_what_may_pass_is_none(error: Exception) -> None:
    assert not is_mistake(error)


def test_the_first_cause_is_told() -> None:
    assert "self-signed" in explain(caused_by(ssl.SSLCertVerificationError("self-signed")))
    assert explain(caused_by(ConnectionRefusedError(111, "Connect call failed"))) == (
        "Connection refused"
    )
    assert explain(TimeoutError()) == "no answer in time"


@pytest.mark.parametrize("option", ["ca", "cert", "password_file"])
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, option: str) -> None:
    url = RedisUrl.parse(f"rediss://h?{option}={tmp_path}/missing")
    with pytest.raises(StoreError, match="missing"):
        RedisClient(url)
