"""Certificates that are their own authority, and what a driver has to make of them."""

import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import self_signed


def authorities(certificate: Path, directory: Path) -> tuple[Path, Path]:
    """The server's own, in a file that this account may read, and another one."""
    ours, another = directory / "ours.pem", directory / "another"
    ours.write_bytes(certificate.read_bytes())
    another.mkdir()
    return ours, self_signed(another, host="localhost")[0]


async def assert_verified(
    backend: Any, opened: Any, certificate: Path, directory: Path, **options: Any
) -> None:
    """See that a driver takes the server's certificate for what it is, whatever it is told to verify.

    Args:
        backend: on a server whose certificate names `localhost`, and not the address.
        opened: the fixture.
        certificate: the server's.
        directory: for files of this test's.
        options: what its driver needs besides.
    """
    ours, wrong = authorities(certificate, directory)

    trusted = {**options, "ssl_root_cert": str(ours)}
    for right in (
        {**options, "ssl": "require"},
        {**trusted, "ssl": "verify-ca"},
        {**trusted, "ssl": "verify-full", "host": "localhost"},
    ):
        driver = backend.driver(**right)
        await driver.ping(await opened(driver))
    for not_right in (
        {**trusted, "ssl": "verify-full"},
        {**options, "ssl": "verify-ca"},
        {**options, "ssl": "verify-ca", "ssl_root_cert": str(wrong)},
        {**options, "ssl": "verify-full", "ssl_root_cert": str(wrong), "host": "localhost"},
    ):
        driver = backend.driver(**not_right)
        with pytest.raises((ssl.SSLCertVerificationError, *backend.errors)) as caught:
            await driver.connect()
        assert driver.is_permanent(caught.value), not_right
        assert driver.key_of(caught.value) in ("ssl", None) if hasattr(driver, "key_of") else True
