"""Check of a device's certificate before it connects: during a connection, TLS only says that the socket was closed."""

from __future__ import annotations

import logging
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path

from edgefd.core.errors import UserError

WARNING_DAYS = 30
"""days before the end of its certificate from which a device warns of it"""
_OF_TIME = (9, 10)  # of OpenSSL: the certificate is not yet valid, or has expired
_LOG = logging.getLogger(__name__)


def check_certificate(certs: Path) -> None:
    """Check that the key fits the certificate, that the CA issued it, and that it is valid at this time.

    A TLS handshake in memory does it, in which the certificate is that of a client, as at the coordinator.

    Args:
        certs: folder with ca.pem, device.pem and device.key.

    Raises:
        UserError: if a check fails, or a file is not what its name says.
    """
    ca, certificate, key = (certs / name for name in ("ca.pem", "device.pem", "device.key"))
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # in which the certificate is verified within the handshake
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    server.verify_mode = ssl.CERT_REQUIRED
    try:
        for context in (server, client):
            context.load_cert_chain(certificate, key, password="")  # without one, OpenSSL would ask for it
        server.load_verify_locations(ca)
    except ssl.SSLError as error:
        wrong = f"{key} is not the key of {certificate}"
        if error.reason != "KEY_VALUES_MISMATCH":
            wrong = f"ca.pem, device.pem or device.key in {certs} is damaged, or its key has a password"
        raise UserError(f"{wrong}: copy the folder of `edgefd certs device` again") from error
    try:
        expires = _verified(server, client)
    except ssl.SSLCertVerificationError as error:
        advice = "copy the folder of `edgefd certs device` again"
        if error.verify_code in _OF_TIME:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            advice = f"the clock shows {now}: set it, or get a new certificate with `edgefd certs device`"
        raise UserError(f"{certificate} is not valid with {ca}: {error.verify_message}; {advice}") from error
    days = (expires - time.time()) / 86_400
    if days < WARNING_DAYS:
        _LOG.warning("%s expires in %.0f days: get a new certificate with `edgefd certs device`", certificate, days)


def _verified(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Return the end of the validity of the client's certificate, in seconds since 1970, if the server accepts it."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepting, calling = server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up)
    for side in (calling, accepting, calling, accepting, calling):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    fields = accepting.getpeercert()
    assert fields is not None
    return float(ssl.cert_time_to_seconds(str(fields["notAfter"])))
