"""Identities and their URIs are the same thing written twice; everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhft.errors import FedhftError
from fedhft.identity import Identity, Role, parse_identity, parse_path, parse_trust_domain
from fedhft.ids import parse_client_id

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
domains = st.from_regex(r"[a-z0-9._-]{1,60}", fullmatch=True)
identities = st.one_of(
    st.builds(Identity, domains, st.sampled_from([Role.AGENT, Role.OPERATOR]), names),
    st.builds(Identity, domains, st.sampled_from([Role.AGGREGATOR, Role.CLUSTERER])),
)


@given(identities)
def test_an_identity_is_read_back_from_its_uri_and_from_its_path(identity: Identity) -> None:
    assert parse_identity(identity.uri) == identity
    assert parse_path(identity.trust_domain, identity.path) == identity


@given(
    st.one_of(
        st.text(),
        identities.map(lambda one: one.uri).flatmap(
            lambda uri: st.sampled_from(
                [
                    uri + "/",
                    uri + "/x",
                    uri.upper(),
                    uri[1:],
                    uri + "?a",
                    uri + "#a",
                    " " + uri,
                    uri.replace("//", "///"),
                ]
            )
        ),
    )
)
def test_any_text_is_the_uri_of_the_identity_it_is_read_as_or_refused(text: str) -> None:
    try:
        found = parse_identity(text)
    except FedhftError:
        return
    assert found.uri == text


@given(names)
def test_every_client_id_can_be_in_a_certificate(name: str) -> None:
    assert Identity("a", Role.AGENT, parse_client_id(name)).name == name


@pytest.mark.parametrize(
    "path", ["agent", "agent/", "aggregator/", "aggregator/a", "operator/A", "root", "", "agent/a/b"]
)
def test_a_role_without_its_name_or_with_one_too_many_is_refused(path: str) -> None:
    with pytest.raises(FedhftError, match="write one of agent/<client id>"):
        parse_path("clinics.example", path)


@pytest.mark.parametrize("domain", ["", "Clinics", "a b", "a/b", "a" * 256])
def test_a_trust_domain_has_its_characters(domain: str) -> None:
    with pytest.raises(FedhftError, match="trust domain"):
        parse_trust_domain(domain)
