"""Who may use the shared table: passwords, users and certificates, and URLs that are mistaken."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxy.affinity.redis import RedisStore
from proxy.affinity.store import Touch
from proxy.errors import StoreError
from tests.integration.redis_nodes import key
from tests.servers.redis import RedisServer, start_cluster, start_sentinels

pytestmark = pytest.mark.usefixtures("patience")

PERMISSIONS = "+evalsha +eval +hmget +hset +pexpire +persist +set +del +unlink +scan +dbsize +time"


def with_user(server: RedisServer, user: str) -> str:
    return f"redis://{user}@127.0.0.1:{server.port}/0"


async def use(url: str) -> None:
    store = await RedisStore.open(url)
    try:
        await store.claim(key(1), "a", expected=None, ttl_s=60.0)
        await store.touch("node", [Touch(key(1), "a", 60.0)])
        assert [found async for found, _pin in store.scan()] == [key(1)]
        assert await store.size() == 1
        assert await store.clear(key(1))
    finally:
        await store.close()


async def test_a_password_is_needed_where_there_is_one(server: RedisServer, tmp_path: Path) -> None:
    server.cli("config", "set", "requirepass", "op:en")
    (tmp_path / "secret").write_text("op:en\n")
    await use(with_user(server, ":op%3Aen"))
    await use(f"{server.url}?password_file={tmp_path / 'secret'}")
    for wrong in (server.url, with_user(server, ":wrong"), with_user(server, "nobody:op%3Aen")):
        with pytest.raises(StoreError, match=r"affinity\.url: .*([Aa]uth|WRONGPASS|password)"):
            await use(wrong)


async def test_a_password_where_there_is_none_is_refused(server: RedisServer) -> None:
    with pytest.raises(StoreError, match="without any password configured"):
        await use(with_user(server, ":open"))


async def test_a_user_needs_only_these_permissions(server: RedisServer) -> None:
    rights = PERMISSIONS.split()
    server.cli("acl", "setuser", "proxy", "on", ">open", "~rdp-proxy:*", "-@all", *rights)
    await use(with_user(server, "proxy:open"))
    server.cli("acl", "setuser", "proxy", "-hset")
    server.cli("acl", "setuser", "proxy", "-eval")
    with pytest.raises(StoreError, match="no permissions to run the 'eval' command"):
        await use(with_user(server, "proxy:open"))


async def test_a_database_that_does_not_exist_is_refused(server: RedisServer) -> None:
    with pytest.raises(StoreError, match="DB index is out of range"):
        await use(server.url.replace("/0", "/99"))


async def test_a_url_for_another_kind_of_server_is_refused(tmp_path: Path) -> None:
    cluster, _cluster_url = start_cluster(tmp_path)
    single = RedisServer(tmp_path).start()
    try:
        node = cluster.servers[0]
        with pytest.raises(
            StoreError, match=r"affinity\.url: a Cluster's URL begins with redis\+cluster"
        ):
            await use(node.url)
        with pytest.raises(StoreError, match=r"affinity\.url: .*Cluster"):
            await use(f"redis+cluster://127.0.0.1:{single.port}")
        with pytest.raises(StoreError, match=r"affinity\.url: .*SENTINEL"):
            await use(f"redis+sentinel://127.0.0.1:{single.port}/table")
    finally:
        cluster.close()
        single.kill()


async def test_a_name_that_no_sentinel_knows_is_refused(tmp_path: Path) -> None:
    farm, url = start_sentinels(tmp_path)
    try:
        with pytest.raises(StoreError, match=r"affinity\.url: no Sentinel knows other"):
            await use(url.replace("/table", "/other"))
        with pytest.raises(StoreError, match=r"affinity\.url: unknown command"):
            await use(farm.servers[-1].url)
    finally:
        farm.close()


class Authority:
    """A certificate authority, which signs for 127.0.0.1."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        signed = self._sign(self._name, self._key, is_authority=True)
        self.certificate = self._write("ca.pem", signed)

    def issue(self, name: str) -> Path:
        """A certificate and its key, in one file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(f"{name}.pem", self._sign(subject, key, is_authority=False), key)

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        usage = x509.KeyUsage(
            True, False, False, False, False, is_authority, is_authority, False, False
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )

    def _write(
        self, name: str, signed: x509.Certificate, key: ec.EllipticCurvePrivateKey | None = None
    ) -> Path:
        text = signed.public_bytes(serialization.Encoding.PEM)
        if key is not None:
            text += key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        path = self.directory / name
        path.write_bytes(text)
        return path


async def test_tls_trusts_its_own_authority_alone(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    of_server, of_client = ours.issue("server"), ours.issue("client")
    tls = ("--tls-cert-file", str(of_server), "--tls-key-file", str(of_server))
    port = RedisServer(tmp_path).port
    server = RedisServer(
        tmp_path, *tls, "--tls-ca-cert-file", str(ours.certificate), "--tls-port", str(port)
    ).start()
    url = f"rediss://127.0.0.1:{port}/0"
    try:
        await use(f"{url}?ca={ours.certificate}&cert={of_client}")
        with pytest.raises(StoreError, match=r"affinity\.url: .*certificate"):
            await use(f"{url}?ca={theirs.certificate}&cert={of_client}")
        with pytest.raises(StoreError, match=r"affinity\.url: .*certificate"):
            await use(url)
        with pytest.raises(StoreError, match=r"certificate required|closed|reset"):
            await use(f"{url}?ca={ours.certificate}")
    finally:
        server.kill()
