"""Keys and certificates as bytes: what this authority signs, and nothing about where it is kept.

Keys are ECDSA P-256 everywhere. A certificate says who its holder is in one SAN URI, how servers are reached in SAN
DNS and IP entries, and in its extended key usage which end of a connection it is for: an agent's certificate cannot
pass for a server's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import SCHEME, Identity, Role

BACKDATE = timedelta(minutes=5)
"""A certificate is valid from a little before it was made, for machines whose clocks are behind."""
_USAGES = {
    Role.AGENT: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Role.OPERATOR: (ExtendedKeyUsageOID.CLIENT_AUTH,),
    Role.CLUSTERER: (ExtendedKeyUsageOID.SERVER_AUTH,),
    Role.AGGREGATOR: (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH),
}
"""The aggregator serves agents and people, and calls the clusterer."""


@dataclass(frozen=True)
class Signed:
    """A new certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        """PEM of the certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """PEM of the key, PKCS #8, without a password."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def new_authority(trust_domain: str, now: datetime, days: int) -> Signed:
    """A self-signed authority that may sign certificates of holders, but no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedhft authority")])
    builder = (
        _builder(name, name, key.public_key(), now, days)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SCHEME + trust_domain)]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Signed(builder.sign(key, hashes.SHA256()), key)


def new_certificate(authority: Signed, identity: Identity, hosts: Sequence[str], now: datetime, days: int) -> Signed:
    """A certificate of one holder with a key of its own; it ends no later than its authority.

    hosts: names and addresses under which a server is reached. Raises FedhftError(INVALID_ARGUMENT).
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.path[:64])])
    names = [x509.UniformResourceIdentifier(identity.uri), *map(_host, hosts)]
    until = issuer.not_valid_after_utc - now
    if until <= timedelta(0):
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "authority", issuer.not_valid_after_utc.isoformat(), "has expired",
            "make a new one in another folder with `fedhft certs init`",
        )  # fmt: skip
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now, days, until)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USAGES[identity.role]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
    )
    return Signed(builder.sign(authority.key, hashes.SHA256()), key)


def read_signed(certificate_pem: bytes, key_pem: bytes) -> Signed:
    """A certificate and its key from PEM. Raises ValueError when they are damaged or do not belong together."""
    certificate = x509.load_pem_x509_certificate(certificate_pem)
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ValueError("the key is not that of the certificate")
    return Signed(certificate, key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    days: int,
    at_most: timedelta = timedelta.max,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + min(timedelta(days=days), at_most))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
