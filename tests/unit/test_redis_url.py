"""URLs of the shared table."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.redis_url import RedisKind, RedisUrl


def test_one_server() -> None:
    url = RedisUrl.parse("redis://10.0.0.5:6380/3")
    assert url == RedisUrl(RedisKind.SINGLE, (Address("10.0.0.5", 6380),), db=3)
    assert RedisUrl.parse("redis://[2001:db8::5]").addresses == (Address("2001:db8::5", 6379),)


def test_sentinels_and_the_name_they_watch() -> None:
    url = RedisUrl.parse("redis+sentinel://h1,h2:26380/mymaster/2")
    assert url.kind is RedisKind.SENTINEL
    assert url.addresses == (Address("h1", 26379), Address("h2", 26380))
    assert (url.name, url.db) == ("mymaster", 2)


def test_nodes_of_a_cluster() -> None:
    url = RedisUrl.parse("rediss+cluster://h1:7000,h2:7001")
    assert (url.kind, url.is_tls) == (RedisKind.CLUSTER, True)
    assert url.addresses == (Address("h1", 7000), Address("h2", 7001))


def test_credentials_are_percent_decoded() -> None:
    url = RedisUrl.parse("redis://al%3Aice:p%40ss%2Fw,o:rd@h")
    assert (url.user, url.password) == ("al:ice", "p@ss/w,o:rd")
    assert RedisUrl.parse("redis://:secret@h").user == ""


def test_files_stand_behind_the_question_mark() -> None:
    url = RedisUrl.parse("rediss://h?ca=/etc/ca.pem&cert=client.pem&password_file=/run/secret")
    assert (url.ca_file, url.cert_file) == ("/etc/ca.pem", "client.pem")
    assert url.password_file == "/run/secret"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://h", "begin with redis://"),
        ("redis:h", "begin with redis://"),
        ("redis+://h", "begin with redis://"),
        ("redis+ring://h", "neither"),
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://h:port", "not a port"),
        ("redis://h1,h2", "several hosts"),
        ("redis://h/x", "a database is a number"),
        ("redis://h/٣", "a database is a number"),
        ("redis+sentinel://h", "the name"),
        ("redis+sentinel://h/name/x", "a database is a number"),
        ("redis+cluster://h/0", "no numbered databases"),
        ("redis://h?ca=/x", "go with rediss"),
        ("rediss://h?ca=", "each once"),
        ("rediss://h?ca=/a&ca=/b", "each once"),
        ("rediss://h?insecure=1", "each once"),
        ("rediss://h?nonsense", "bad query"),
        ("redis://:secret@h?password_file=/x", "both"),
    ],
)
def test_what_is_no_url_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RedisUrl.parse(text)


@pytest.mark.parametrize(
    "text", ["redis://:hunter2@", "redis://:hunter2@h1,h2", "redis://x:hunter2@h/x"]
)
def test_no_reason_tells_the_password(text: str) -> None:
    with pytest.raises(ValueError) as refusal:
        RedisUrl.parse(text)
    assert "hunter2" not in str(refusal.value)
