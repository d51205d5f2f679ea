"""The certificate that the API serves with, and the authority behind it: made and renewed, `now` being an argument."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from typing import Self

AUTHORITY_LIFE = timedelta(days=3650)
CERTIFICATE_LIFE = timedelta(days=365)
"""Less than a third of `AUTHORITY_LIFE`: no certificate outlives the authority that issued it."""

_CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid from this long ago: the API server's clock may be behind ours."""

_AUTHORITY_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headrace-operator-metrics-api-ca")])

_AUTHORITIES, _AUTHORITY_KEY, _CERTIFICATE, _KEY = "ca.crt", "ca.key", "tls.crt", "tls.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCertificate:
    """A serving certificate with all that is needed to renew it; everything is PEM. `repr` shows no key."""

    authorities: bytes
    """The authority that issues now, then those before it that are still valid.

    A client that trusts them all is never without a match while one replica of the operator serves with the new
    certificate already, and another with the old one still.
    """
    authority_key: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def from_secret_data(cls, data: Mapping[str, bytes]) -> Self:
        """What `secret_data` made; missing parts are empty, which `renew` mends."""
        return cls(
            authorities=data.get(_AUTHORITIES, b""),
            authority_key=data.get(_AUTHORITY_KEY, b""),
            certificate=data.get(_CERTIFICATE, b""),
            key=data.get(_KEY, b""),
        )

    def secret_data(self) -> dict[str, bytes]:
        """The data of a Secret of type kubernetes.io/tls."""
        return {
            _AUTHORITIES: self.authorities,
            _AUTHORITY_KEY: self.authority_key,
            _CERTIFICATE: self.certificate,
            _KEY: self.key,
        }

    def __repr__(self) -> str:
        return "ServingCertificate(…)"


def renewal_due(certificate: x509.Certificate, now: datetime) -> bool:
    """Whether less than a third of the certificate's life is left."""
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now < life / 3


def renew(stored: ServingCertificate | None, names: Sequence[str], now: datetime) -> ServingCertificate:
    """The certificate to serve with under these DNS names: `stored` itself while it will do.

    What is due for renewal, broken, or made for other names is made anew; the authority is kept as long as it will do.
    """
    authority = _load_authority(stored, now) if stored else None
    if stored and authority and _serves(stored, authority.certificate, names, now):
        return stored
    if authority is None:
        authority = _make_authority(now)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "headrace-operator-metrics-api")]),
            key.public_key(),
            now=now,
            not_after=now + CERTIFICATE_LIFE,
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA256())
    )
    trusted = [authority.certificate, *_still_valid(stored, authority.certificate, now)]
    return ServingCertificate(
        authorities=b"".join(each.public_bytes(Encoding.PEM) for each in trusted),
        authority_key=_pem(authority.key),
        certificate=certificate.public_bytes(Encoding.PEM),
        key=_pem(key),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _make_authority(now: datetime) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _builder(_AUTHORITY_NAME, key.public_key(), now=now, not_after=now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _Authority(certificate=certificate, key=key)


def _load_authority(stored: ServingCertificate, now: datetime) -> _Authority | None:
    """The stored authority, if it can still issue."""
    try:
        certificate = x509.load_pem_x509_certificate(stored.authorities)
        key = load_pem_private_key(stored.authority_key, password=None)
    except ValueError:
        return None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _belong_together(key, certificate):
        return None
    return None if renewal_due(certificate, now) else _Authority(certificate=certificate, key=key)


def _serves(stored: ServingCertificate, authority: x509.Certificate, names: Sequence[str], now: datetime) -> bool:
    """Whether the stored certificate is whole, long enough valid, for these names, and issued by this authority."""
    try:
        certificate = x509.load_pem_x509_certificate(stored.certificate)
        key = load_pem_private_key(stored.key, password=None)
        certificate.verify_directly_issued_by(authority)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not _belong_together(key, certificate):
        return False
    return set(names) <= set(alternatives.get_values_for_type(x509.DNSName)) and not renewal_due(certificate, now)


def _still_valid(
    stored: ServingCertificate | None, authority: x509.Certificate, now: datetime
) -> list[x509.Certificate]:
    """The other authorities of before that somebody may still serve under."""
    try:
        before = x509.load_pem_x509_certificates(stored.authorities) if stored else []
    except ValueError:
        return []
    return [each for each in before if each != authority and each.not_valid_after_utc > now]


def _builder(
    subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, now: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_AUTHORITY_NAME)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _belong_together(key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> bool:
    encoding, form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(encoding, form) == certificate.public_key().public_bytes(encoding, form)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
