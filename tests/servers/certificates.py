"""Certificates for servers that speak TLS."""

import shutil
import subprocess
from pathlib import Path


def self_signed(directory: Path, *, host: str) -> tuple[Path, Path]:
    """A certificate that is its own authority, and its key; the directory's owner's.

    It names `host` and `localhost`, and no address: whoever comes to the address comes to another host.
    """
    certificate, key = directory / "server.crt", directory / "server.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "2", "-subj", f"/CN={host}"),
            *("-addext", f"subjectAltName=DNS:{host},DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    owner = directory.stat()
    for path in (key, certificate):
        shutil.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)
    return certificate, key
