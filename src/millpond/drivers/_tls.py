"""TLS as clients of a database want it: one mode, and files."""

import asyncio
import ssl
from dataclasses import dataclass

from millpond.drivers import _options as check


class BadTlsFile(ValueError):
    """A certificate or key cannot be used; the text names the option and the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """Files of certificates, in PEM; each None when it is not needed.

    Attributes:
        root_cert: the authorities to trust; None: the system's.
        cert: the client's own certificate.
        key: its key; None: it is in `cert`.
    """

    root_cert: str | None = None
    cert: str | None = None
    key: str | None = None

    def check(self, mode: str) -> None:
        """Refuse files that `mode` would not look at.

        Raises:
            ValueError: names the option.
        """
        for name in ("root_cert", "cert", "key"):
            check.text(f"ssl_{name}", getattr(self, name))
        if self.root_cert is not None and not mode.startswith("verify-"):
            raise ValueError(
                f"ssl_root_cert: is used only with ssl verify-ca or verify-full, ssl is {mode!r}"
            )
        if self.cert is not None and mode in ("disable", "prefer"):
            raise ValueError(f"ssl_cert: is used only with ssl require or stricter, ssl is {mode!r}")
        if self.key is not None and self.cert is None:
            raise ValueError("ssl_key: is used only together with ssl_cert")


async def tls_context(mode: str, files: TlsFiles) -> ssl.SSLContext:
    """What a client needs for `mode`: `require`, `verify-ca` or `verify-full`.

    Reads the files each time, and in a thread: certificates are renewed while a
    service runs.

    Raises:
        BadTlsFile: a file is missing, or not what it should be.
    """
    return await asyncio.to_thread(_context, mode, files)


def _context(mode: str, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    elif files.root_cert is None:
        context.load_default_certs()
    else:
        try:
            context.load_verify_locations(cafile=files.root_cert)
        except (OSError, ValueError) as error:
            raise BadTlsFile(f"ssl_root_cert: cannot use {files.root_cert!r}: {error}") from error
    if files.cert is not None:
        try:
            context.load_cert_chain(files.cert, files.key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            names = f"{files.cert!r}" + (f" with ssl_key {files.key!r}" if files.key is not None else "")
            raise BadTlsFile(f"ssl_cert: cannot use {names}: {error}") from error
    return context


def _no_passphrase() -> str:
    """Instead of asking for it on the terminal, as OpenSSL would."""
    return ""
