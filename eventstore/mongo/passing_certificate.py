"""A certificate for one connection on this machine, and an authority that is forgotten at once."""

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eventstore.key_files import place

_DAY = timedelta(days=1)


def passing_certificate(authority: Path, own: Path, key: Path) -> None:
    """Write a certificate for 127.0.0.1, good for both ends, and who vouches for it.

    Only who can read `own` and `key` can speak to a server that asks for one of `authority`: its
    key is in no file. In `own` the key is as well. Raises OSError.
    """
    authority_key = ec.generate_private_key(ec.SECP256R1())
    own_key = ec.generate_private_key(ec.SECP256R1())
    ends_with_itself = x509.BasicConstraints(ca=True, path_length=0)
    of_authority = (
        _begun("casebook setup", "casebook setup")
        .public_key(authority_key.public_key())
        .add_extension(ends_with_itself, critical=True)
        .sign(authority_key, SHA256())
    )
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    of_its_own = (
        _begun("casebook", "casebook setup")
        .public_key(own_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(both, critical=False)
        .add_extension(here, critical=False)
        .sign(authority_key, SHA256())
    )
    secret = own_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shown = of_its_own.public_bytes(Encoding.PEM)
    for path, content in (
        (authority, of_authority.public_bytes(Encoding.PEM)),
        (own, shown + secret),
        (key, secret),
    ):
        path.unlink(missing_ok=True)
        place(path, content)


def _begun(subject: str, issuer: str) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )
