"""Certificates of a federation: a CA, the coordinator's certificate, and one certificate for each device.

ca.pem ca.key            the federation's own certificate authority; the key signs and need not be on the coordinator
server.pem server.key    certificate and key of the coordinator
devices.json             the allow-list: the client of each certificate or key; read again whenever it changes
.lock                    held by the commands that change the allow-list, one after the other
devices/NAME/            files for device NAME: ca.pem, device.pem, device.key; for a Flower SuperNode: ca.pem, node.key

A certificate identifies a device. A SuperNode authenticates with a key of its own (P-384, OpenSSH) and not with a
certificate, because Flower requires it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefd.core.errors import UserError
from edgefd.core.files import exclusive_lock, new_folder, os_errors, put, removed_on_error
from edgefd.core.text import shown

DEVICES, LOCK = "devices.json", ".lock"
CA_DAYS = 3650
WARNING_DAYS = 30
"""days before the end of a certificate from which it is marked"""
EARLIER = timedelta(days=1)
"""time before its creation from which a certificate is valid: a device's clock may be late"""
PLAINTEXT_WARNING = "connections are unencrypted and unauthenticated (no --certs)"
"""warning of a coordinator that serves clients without certificates"""
_PATIENCE = 60.0  # seconds that a command waits for another one
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Device:
    """An entry of the allow-list."""

    client: int
    """number of the client in the federation"""
    sha256: str
    """digest of the certificate, or of a SuperNode's public key"""
    expires: str
    """end of validity in ISO format; "" = never, as for a SuperNode's key"""
    revoked: str = ""
    """time of the revocation in ISO format; "" = not revoked"""
    node_key: str = ""
    """public key (PEM) of a SuperNode; "" = a device with a certificate"""


@dataclass(frozen=True)
class Identity:
    """The device that a certificate names, the certificate's digest, and the end of its validity."""

    name: str
    sha256: str
    expires: datetime


def init(folder: Path, hosts: Sequence[str], days: int) -> None:
    """Create a CA, the coordinator's certificate for those host names and addresses, and an empty allow-list.

    Args:
        folder: to create.
        hosts: names and addresses of the coordinator.
        days: validity of the coordinator's certificate.

    Raises:
        UserError: if the folder exists, or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already: choose another folder, or remove it")
    with os_errors(f"write {folder}"), removed_on_error(folder):
        key = ec.generate_private_key(ec.SECP256R1())
        authority = _signed(key, None, "edgefd federation CA", key.public_key(), CA_DAYS)
        _write_key(folder / "ca.key", key)
        put(folder / "ca.pem", _pem(authority))
        server_key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        public = server_key.public_key()
        certificate = _signed(key, authority.subject, "coordinator", public, days, purpose, names)
        _write_key(folder / "server.key", server_key)
        put(folder / "server.pem", _pem(certificate))
        _write_devices(folder, {})


def add_device(folder: Path, name: str, client: int, days: float) -> Path:
    """Create a certificate for a device, enter it in the allow-list, and return the folder to copy to the device.

    Raises:
        UserError: if the name or the client has a certificate or key that is not revoked.
    """
    with _changing(folder) as devices:
        out = _device_folder(folder, devices, name, client)
        try:
            authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            device_key = ec.generate_private_key(ec.SECP256R1())
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
            public = device_key.public_key()
            certificate = _signed(key, authority.subject, name, public, days, purpose)  # type: ignore[arg-type]
            issued = identity(_pem(certificate))
            with new_folder(out) as new:
                _write_key(new / "device.key", device_key)
                put(new / "device.pem", _pem(certificate))
                put(new / "ca.pem", _pem(authority))
                entry = Device(client, issued.sha256, issued.expires.isoformat())
                _replace(out, folder, devices | {name: entry})
        except (OSError, ValueError) as error:
            raise UserError(f"cannot create a certificate in {folder}: {error}") from error
    return out


def add_node(folder: Path, name: str, client: int) -> Path:
    """Create a key for a Flower SuperNode, enter it in the allow-list, and return the folder to copy to its machine.

    Raises:
        UserError: if the name or the client has a certificate or key that is not revoked.
    """
    with _changing(folder) as devices:
        out = _device_folder(folder, devices, name, client)
        node_key = ec.generate_private_key(ec.SECP384R1())
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        # A SuperLink reports keys in this form.
        public = node_key.public_key().public_bytes(serialization.Encoding.PEM, form)
        entry = Device(client, hashlib.sha256(public).hexdigest(), "", node_key=public.decode())
        try:
            with new_folder(out) as new:
                _write_key(new / "node.key", node_key, serialization.PrivateFormat.OpenSSH)
                put(new / "ca.pem", (folder / "ca.pem").read_bytes())
                _replace(out, folder, devices | {name: entry})
        except OSError as error:
            raise UserError(f"cannot create a key in {folder}: {error}") from error
    return out


def revoke(folder: Path, name: str) -> None:
    """Revoke a device: all its calls are refused from now on. A running coordinator notices the change by itself.

    Raises:
        UserError: if there is no such device.
    """
    with _changing(folder) as devices:
        if name not in devices:
            raise UserError(f"there is no device {shown(name)!r}: there are {shown(', '.join(devices)) or 'none'}")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with os_errors(f"write {folder / DEVICES}"):
            _write_devices(folder, devices | {name: replace(devices[name], revoked=devices[name].revoked or now)})


@contextmanager
def _changing(folder: Path) -> Iterator[dict[str, Device]]:
    """Yield the allow-list, which the context may replace. Other commands that change it wait meanwhile.

    Raises:
        UserError: if there is no allow-list, or another command does not end.
    """
    read_devices(folder)  # so that no lock is created where there are no certificates
    in_use = f"another command has been changing {folder / DEVICES} for {_PATIENCE:g} s: try again"
    with exclusive_lock(folder / LOCK, in_use, f"cannot lock {folder / DEVICES}", _PATIENCE):
        yield read_devices(folder)


def _device_folder(folder: Path, devices: dict[str, Device], name: str, client: int) -> Path:
    """Check that the allow-list has no valid entry of that name or client; return the path of the device's folder."""
    if not _NAME.fullmatch(name):
        raise UserError(f"device name {name!r} must be 1 to 64 letters, digits, dots, dashes or underscores")
    if client < 0:
        raise UserError(f"--client is {client}: it must be the number of the device's client, 0, 1, ...")
    for other, device in devices.items():
        if not device.revoked and (other == name or device.client == client):
            raise UserError(f"{other} is client {device.client} already: revoke it first")
    return folder / "devices" / name


def _replace(out: Path, folder: Path, devices: dict[str, Device]) -> None:
    """Write the allow-list, and remove the files of a revoked device, which had the same name."""
    _write_devices(folder, devices)
    shutil.rmtree(out, ignore_errors=True)


def expiry_mark(device: Device) -> str:
    """Return " EXPIRED", " (expires in N days)" for less than `WARNING_DAYS` days, or ""."""
    left = datetime.fromisoformat(device.expires) - datetime.now(UTC)
    if left < timedelta():
        return " EXPIRED"
    return f" (expires in {left.days} days)" if left.days < WARNING_DAYS else ""


def read_devices(folder: Path) -> dict[str, Device]:
    """Return the allow-list: the devices by name.

    Raises:
        UserError: if there is none, or the file is not an allow-list.
    """
    path = folder / DEVICES
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): Device(
                int(d["client"]), str(d["sha256"]), str(d["expires"]), str(d["revoked"]), str(d.get("node_key", ""))
            )
            for name, d in fields.items()
        }
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; create it with `edgefd certs init`") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not an allow-list: {type(error).__name__}: {error}") from error


class AllowList:
    """The allow-list of a running coordinator, which is read again when the file changes.

    Its methods raise a `UserError` if it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: tuple[int, ...] = ()
        self._devices: dict[str, Device] = {}

    def client_of(self, certificate: bytes) -> int:
        """Return the client of a certificate (PEM). TLS has already checked that the CA signed it.

        Raises:
            PermissionError: if it is unknown, revoked, replaced or expired.
        """
        caller = identity(certificate)
        device = self.current().get(caller.name)
        if device is None:
            raise PermissionError(f"device {caller.name!r} is unknown: it is not on the allow-list")
        if device.revoked:
            raise PermissionError(f"the certificate of {caller.name!r} was revoked")
        if device.sha256 != caller.sha256:
            raise PermissionError(f"the certificate of {caller.name!r} was replaced by another one")
        if caller.expires < datetime.now(UTC):
            raise PermissionError(f"the certificate of {caller.name!r} has expired")
        return device.client

    def client_of_key(self, key: bytes) -> int:
        """Return the client of a SuperNode's public key (PEM).

        Raises:
            PermissionError: if it is unknown or revoked.
        """
        digest = hashlib.sha256(key).hexdigest()
        for name, device in self.current().items():
            if device.node_key and device.sha256 == digest:
                if device.revoked:
                    raise PermissionError(f"the key of {name!r} was revoked")
                return device.client
        raise PermissionError("the SuperNode's key is unknown: it is not on the allow-list")

    def node_keys(self) -> set[bytes]:
        """Return the public keys of the SuperNodes that may take part."""
        devices = self.current().values()
        return {device.node_key.encode() for device in devices if device.node_key and not device.revoked}

    def current(self) -> dict[str, Device]:
        """Return the devices by name, as they are in the file at present."""
        path = self._folder / DEVICES
        with os_errors(f"read {path}", advice="create it with `edgefd certs init`"):
            status = os.stat(path)
        file = (status.st_ino, status.st_size, status.st_mtime_ns)
        if file != self._file:
            self._devices, self._file = read_devices(self._folder), file
        return self._devices

    def names(self) -> dict[int, str]:
        """Return the name of each client's device, as in the file at present."""
        return {device.client: name for name, device in self.current().items() if not device.revoked}


@lru_cache(maxsize=4096)
def identity(certificate: bytes) -> Identity:
    """Return the name, digest and end of validity of a PEM certificate."""
    parsed = x509.load_pem_x509_certificate(certificate)
    names = parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    der = parsed.public_bytes(serialization.Encoding.DER)
    name = str(names[0].value) if names else ""
    return Identity(name, hashlib.sha256(der).hexdigest(), parsed.not_valid_after_utc)


def plaintext_error(address: str) -> UserError:
    """Return the error of a coordinator that was told to listen beyond this machine without certificates."""
    return UserError(
        f"refusing to listen on {address} without TLS: "
        "pass --certs DIR (create it with `edgefd certs init`) or --insecure"
    )


def _signed(
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name | None,
    name: str,
    public: ec.EllipticCurvePublicKey,
    days: float,
    *extensions: x509.ExtensionType,
) -> x509.Certificate:
    """Return a certificate that the authority's key signed, valid until `days` from now.

    Without an issuer, it is the authority's own: it may sign other certificates.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, own = datetime.now(UTC), issuer is None
    builder = (
        x509.CertificateBuilder(issuer or subject, subject, public, x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=own, path_length=0 if own else None), critical=True)
        .add_extension(_usage(signs_certificates=own), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    if not own:
        extensions = (*extensions, x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(
    path: Path,
    key: ec.EllipticCurvePrivateKey,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
) -> None:
    put(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _write_devices(folder: Path, devices: dict[str, Device]) -> None:
    entries = {name: asdict(device) for name, device in devices.items()}
    put(folder / DEVICES, (json.dumps(entries, indent=2) + "\n").encode())
