"""The page beyond loopback in a real browser: an operator's certificate opens it, nothing else does.

Needs what test_page.py needs. Playwright holds the certificate and trusts the federation's authority, as a browser does
in which a person has installed both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fedhft.job import parse_job
from fedhft.jobs.client import JobsClient
from fedhft.local.processes import ServiceProcess, stop_all
from fedhft.local.redis import EmbeddedRedis
from fedhft.rpc.tls import TlsSettings
from tests.certificates import Certificates
from tests.cli_runner import run_cli
from tests.system.browsers import chromium

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is in the extra `browser`")
pytestmark = pytest.mark.timeout(300)
SOON_MS = 30_000
SPEC = {"name": "seen", "model": {"name": "light"}, "task": {"labels": ["a", "b"]}}


@dataclass(frozen=True)
class Site:
    """An aggregator whose page every machine can reach, and a browser."""

    certificates: Certificates
    page: str
    """https://host:port."""
    admin: str
    browser: Any

    def context(self, shown: TlsSettings | None) -> Any:
        """A browser of somebody who has installed this certificate, or none."""
        if shown is None:
            # Without one, it is the browser itself that connects; it has not installed the authority.
            return self.browser.new_context(ignore_https_errors=True)
        files = {"origin": self.page, "certPath": str(shown.certificate), "keyPath": str(shown.key)}
        return self.browser.new_context(client_certificates=[files])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    certificates = Certificates(folder)
    own = certificates.of("aggregator")
    with EmbeddedRedis(folder / "redis") as redis:
        aggregator = ServiceProcess(
            "aggregator", "fedhft_aggregator",
            ["--redis", redis.url, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0",
             "--page", "0.0.0.0:0", "--tls-certificate", str(own.certificate), "--tls-key", str(own.key),
             "--tls-authority", str(own.authority)],
            folder / "aggregator.log", {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        try:
            addresses = aggregator.wait_listening(60)
            page = f"https://127.0.0.1:{addresses['page'].rpartition(':')[2]}"
            with chromium(NODE_EXTRA_CA_CERTS=str(own.authority)) as browser:
                yield Site(certificates, page, addresses["admin"], browser)
        finally:
            stop_all([aggregator], 0.0, 10.0)


def answer(site: Site, shown: TlsSettings) -> tuple[int, Any]:
    """Status and JSON of a request that gets through the handshake."""
    context = site.context(shown)
    try:
        response = context.new_page().goto(f"{site.page}/api/jobs", timeout=SOON_MS)
        return response.status, response.json()
    finally:
        context.close()


def test_an_operator_sees_the_page_and_what_changes_on_it(site: Site) -> None:
    operator = site.certificates.of("operator/olga")
    context = site.context(operator)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for left in (2, 1, 0):  # a busy machine may lose a connection on the way through the driver; a person reloads then
        complaints.clear()
        page.goto(site.page)
        try:
            playwright.expect(page.locator("#nothing-text")).to_contain_text("There are none yet", timeout=SOON_MS / 2)
            break
        except AssertionError:
            print(complaints, page.inner_text("body"))
            if not left:
                raise
    with JobsClient(site.admin, operator) as client:
        client.submit(parse_job(SPEC))
        page.wait_for_selector("#jobs a[href='#job=seen']", timeout=SOON_MS)  # without a reload
        page.click("#jobs a[href='#job=seen']")
        client.pause("seen", "until Monday")
    playwright.expect(page.locator("#notices")).to_contain_text("until Monday", timeout=SOON_MS)
    context.close()
    assert complaints == []


def test_a_browser_without_a_certificate_does_not_get_as_far_as_a_request(site: Site) -> None:
    context = site.context(None)
    with pytest.raises(playwright.Error, match=r"net::ERR_(BAD_SSL_CLIENT_AUTH_CERT|SSL|CONNECTION|EMPTY|SOCKET)"):
        context.new_page().goto(site.page, timeout=SOON_MS)
    context.close()


def test_a_certificate_of_another_authority_does_not_open_it(site: Site, tmp_path: Path) -> None:
    stranger = Certificates(tmp_path, "else.example").of("operator/olga")
    context = site.context(stranger)
    # Playwright's driver does the handshake for the browser, and answers for a server that broke it off.
    with contextlib.suppress(playwright.Error):
        response = context.new_page().goto(site.page, timeout=SOON_MS)
        assert response.status >= 500, response.text()
    context.close()


@pytest.mark.parametrize("holder", ["agent/ash", "aggregator"])
def test_others_of_the_federation_are_told_whom_it_is_for(site: Site, holder: str) -> None:
    status, told = answer(site, site.certificates.of(holder))
    assert status == 403
    assert "the page is for the role operator" in json.dumps(told)


def test_a_revoked_operator_is_no_longer_let_in(site: Site) -> None:
    fired, ops = site.certificates.of("operator/fired"), site.certificates.of("operator/ops")
    assert answer(site, fired)[0] == 200
    revoked = run_cli(
        "certs", "revoke", "operator/fired", "--dir", str(site.certificates.authority.folder), "--server", site.admin,
        "--tls-certificate", str(ops.certificate), "--tls-key", str(ops.key), "--tls-authority", str(ops.authority),
    )  # fmt: skip
    assert revoked.returncode == 0, revoked.stderr
    status, told = answer(site, fired)
    assert status == 403
    assert "revoked" in json.dumps(told)
    assert answer(site, ops)[0] == 200
