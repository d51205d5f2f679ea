from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from headrace_operator.metrics_api.certificates import (
    AUTHORITY_LIFE,
    CERTIFICATE_LIFE,
    ServingCertificate,
    renew,
    renewal_due,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NAMES = ("metrics.headrace-system.svc", "metrics.headrace-system.svc.cluster.local", "localhost")


def certificate(serving: ServingCertificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(serving.certificate)


def authorities(serving: ServingCertificate) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(serving.authorities)


def test_the_first_certificate_is_for_all_names_and_issued_by_its_own_authority() -> None:
    serving = renew(None, NAMES, NOW)
    names = certificate(serving).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(NAMES)
    [authority] = authorities(serving)
    certificate(serving).verify_directly_issued_by(authority)


def test_a_certificate_that_will_do_is_kept_as_it_is() -> None:
    serving = renew(None, NAMES, NOW)
    assert renew(serving, NAMES, NOW + CERTIFICATE_LIFE / 2) is serving


def test_a_certificate_survives_being_stored() -> None:
    serving = renew(None, NAMES, NOW)
    restored = ServingCertificate.from_secret_data(serving.secret_data())
    assert restored == serving
    assert renew(restored, NAMES, NOW) is restored


def test_renewal_is_due_when_less_than_a_third_of_the_life_is_left() -> None:
    issued = certificate(renew(None, NAMES, NOW))
    life = issued.not_valid_after_utc - issued.not_valid_before_utc
    a_third_left = issued.not_valid_after_utc - life / 3
    assert not renewal_due(issued, a_third_left)
    assert renewal_due(issued, a_third_left + timedelta(seconds=1))


def test_a_renewed_certificate_comes_from_the_same_authority_so_that_nobody_must_learn_a_new_one() -> None:
    first = renew(None, NAMES, NOW)
    second = renew(first, NAMES, NOW + CERTIFICATE_LIFE * 0.7)
    assert second.certificate != first.certificate
    assert second.authorities == first.authorities


def test_a_new_authority_stands_before_the_old_one_while_that_is_valid() -> None:
    first = renew(None, NAMES, NOW)
    second = renew(first, NAMES, NOW + AUTHORITY_LIFE * 0.7)
    new, old = authorities(second)
    certificate(second).verify_directly_issued_by(new)
    assert [old] == authorities(first)


def test_an_expired_authority_is_no_longer_trusted() -> None:
    first = renew(None, NAMES, NOW)
    second = renew(first, NAMES, NOW + AUTHORITY_LIFE + timedelta(days=1))
    assert len(authorities(second)) == 1
    assert second.authorities != first.authorities


def test_a_certificate_never_outlives_its_authority() -> None:
    first = renew(None, NAMES, NOW)
    [authority] = authorities(first)
    late = renew(first, NAMES, NOW + AUTHORITY_LIFE * 0.66)
    assert certificate(late).not_valid_after_utc <= authority.not_valid_after_utc


def test_a_missing_name_makes_a_new_certificate() -> None:
    first = renew(None, NAMES, NOW)
    second = renew(first, (*NAMES, "metrics.other.svc"), NOW)
    assert second.certificate != first.certificate
    assert second.authorities == first.authorities


@pytest.mark.parametrize("part", ["certificate", "key"])
@pytest.mark.parametrize("value", [b"", b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n"])
def test_a_broken_certificate_or_key_is_made_anew_under_the_same_authority(part: str, value: bytes) -> None:
    first = renew(None, NAMES, NOW)
    mended = renew(replace(first, **{part: value}), NAMES, NOW)
    assert renew(mended, NAMES, NOW) is mended
    assert mended.authorities == first.authorities


@pytest.mark.parametrize("part", ["authorities", "authority_key"])
def test_a_broken_authority_is_made_anew_with_all_that_hangs_on_it(part: str) -> None:
    first = renew(None, NAMES, NOW)
    mended = renew(replace(first, **{part: b"rubbish"}), NAMES, NOW)
    assert renew(mended, NAMES, NOW) is mended
    assert mended.certificate != first.certificate


def test_a_key_of_another_certificate_is_noticed() -> None:
    first, stranger = renew(None, NAMES, NOW), renew(None, NAMES, NOW)
    mended = renew(replace(first, key=stranger.key), NAMES, NOW)
    assert mended.certificate != first.certificate


def test_a_certificate_of_another_authority_is_noticed() -> None:
    first, stranger = renew(None, NAMES, NOW), renew(None, NAMES, NOW)
    mended = renew(replace(first, certificate=stranger.certificate, key=stranger.key), NAMES, NOW)
    certificate(mended).verify_directly_issued_by(authorities(first)[0])


def test_no_key_shows_when_printed() -> None:
    assert "PRIVATE" not in repr(renew(None, NAMES, NOW))
