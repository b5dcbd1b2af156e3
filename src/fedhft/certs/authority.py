"""The authority as a folder:

    ca.crt, ca.key                            the authority; the key never leaves this machine
    index.jsonl                               every certificate issued, and whether it was revoked
    aggregator/, clusterer/                   ca.crt, tls.crt and tls.key of a service
    agent/<client id>/, operator/<name>/      the same of an agent, of an operator

The names of the files are those of a Kubernetes TLS secret. A holder's folder is what its machine needs, and all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509 as certificates

from fedhft.certs.files import locked, read_file, write_file
from fedhft.certs.index import Entry, Index, read_index, write_index
from fedhft.certs.x509 import Signed, new_authority, new_certificate, read_signed
from fedhft.errors import ErrorCode, FedhftError
from fedhft.identity import SCHEME, Identity, parse_path, parse_trust_domain
from fedhft.rpc.address import parse_host
from fedhft.rpc.peer import DAMAGED
from fedhft.rpc.tls import check_private

AUTHORITY_DAYS = 3650
CERTIFICATE_DAYS = 90
LONGEST_DAYS = 36500


def serial_of(certificate: certificates.Certificate) -> str:
    """A certificate's serial number as indexes and deny lists have it."""
    return format(certificate.serial_number, "x")


@dataclass(frozen=True)
class Holder:
    """Where one holder's files are."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """PEM certificate."""
        return self.folder / "tls.crt"

    @property
    def key(self) -> Path:
        """PEM private key, mode 0600."""
        return self.folder / "tls.key"

    @property
    def authority(self) -> Path:
        """PEM certificate of the authority."""
        return self.folder / "ca.crt"


class Authority:
    """An existing authority. Every method raises FedhftError(INVALID_ARGUMENT) for what cannot be done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key = folder / "ca.key"
        if not key.exists() or not (folder / "ca.crt").exists():
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), "is not an authority", "make one: fedhft certs init"
            )
        check_private(key)
        try:
            self._own = read_signed(read_file(folder / "ca.crt"), read_file(key))
            self.trust_domain = _trust_domain(self._own.certificate)
        except DAMAGED as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), f"has a damaged ca.crt or ca.key ({error})",
                "restore both from a backup",
            ) from error  # fmt: skip

    @classmethod
    def init(cls, folder: Path, trust_domain: str, days: int = AUTHORITY_DAYS) -> Authority:
        """Make an authority. One that is already there stays, if it has this trust domain."""
        parse_trust_domain(trust_domain)
        _check_days(days)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), f"cannot be made ({error.strerror})", "check the path"
            ) from error
        with locked(folder):
            if not (folder / "ca.crt").exists():
                if read_index(folder / "index.jsonl").entries:
                    raise FedhftError.field(
                        ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), "has issued certificates and lost its ca.crt",
                        "copy it back from the folder of any holder",
                    )  # fmt: skip
                made = new_authority(trust_domain, _now(), days)
                # A key without a certificate, which a crash may leave, has signed nothing: it may be replaced.
                write_file(folder / "ca.key", made.key_pem, private=True, replace=True)
                write_file(folder / "ca.crt", made.certificate_pem, private=False, replace=False)
        there = cls(folder)
        if there.trust_domain != trust_domain:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--dir", str(folder), f"is the authority of {there.trust_domain}",
                "choose another folder for another trust domain",
            )  # fmt: skip
        return there

    @property
    def not_after(self) -> datetime:
        """When the authority itself expires."""
        return self._own.certificate.not_valid_after_utc

    def identity(self, path: str) -> Identity:
        """`agent/clinic-1` in this trust domain."""
        return parse_path(self.trust_domain, path)

    def holder(self, identity: Identity) -> Holder:
        """Where the files of a holder are."""
        return Holder(self.folder / identity.path)

    def index(self) -> Index:
        """What was issued."""
        return read_index(self.folder / "index.jsonl")

    def issue(self, identity: Identity, hosts: Sequence[str] = (), days: int = CERTIFICATE_DAYS) -> Entry:
        """Issue a holder's first certificate. One that is valid already stays, if it names the same hosts."""
        hosts = self._hosts(identity, hosts)
        _check_days(days)
        with locked(self.folder):
            index = self.index()
            valid = [entry for entry in index.of(identity) if entry.state(_now()) == "valid"]
            if valid and valid[-1].hosts != hosts:
                raise FedhftError.field(
                    ErrorCode.INVALID_ARGUMENT, "identity", identity.path,
                    f"already has a certificate for {', '.join(valid[-1].hosts) or 'no host'}",
                    "use `fedhft certs renew` with --host to change its hosts",
                )  # fmt: skip
            if valid and self.holder(identity).certificate.exists():
                return valid[-1]
            return self._sign(index, identity, hosts, days)

    def renew(self, identity: Identity, hosts: Sequence[str] = (), days: int = CERTIFICATE_DAYS) -> Entry:
        """Replace a holder's certificate and key; without `hosts` it keeps its own. The old one runs out by itself."""
        _check_days(days)
        with locked(self.folder):
            index = self.index()
            known = index.of(identity)
            if not known:
                raise self._unknown(identity.path)
            if known[-1].revoked is not None:
                raise FedhftError.field(
                    ErrorCode.INVALID_ARGUMENT, "identity", identity.path, "was revoked",
                    "issue it a new certificate, if it is to be trusted again",
                )  # fmt: skip
            return self._sign(index, identity, self._hosts(identity, hosts or known[-1].hosts), days)

    def revoke(self, name: str, reason: str = "") -> list[Entry]:
        """Revoke a holder's unexpired certificates, or the one with a serial number; returns them, repeated or not."""
        with locked(self.folder):
            index = self.index()
            chosen = [entry for entry in index.entries if name in (entry.serial, entry.identity.path)]
            if not chosen:
                raise self._unknown(name)
            wanted = [entry.serial for entry in chosen if entry.state(_now()) != "expired"]
            index = index.with_revoked(wanted, _now(), reason)
            write_index(self.folder / "index.jsonl", index)
            return [entry for entry in index.entries if entry.serial in wanted]

    def _sign(self, index: Index, identity: Identity, hosts: tuple[str, ...], days: int) -> Entry:
        signed = new_certificate(self._own, identity, hosts, _now(), days)
        entry = Entry(serial_of(signed.certificate), identity, signed.certificate.not_valid_after_utc, hosts)
        # First the index: a certificate that exists and is not in it could never be revoked by name.
        write_index(self.folder / "index.jsonl", index.with_entry(entry))
        self._write(self.holder(identity), signed)
        return entry

    def _write(self, holder: Holder, signed: Signed) -> None:
        """Key before certificate: a process that reads between the two sees a pair that does not match, and waits."""
        write_file(holder.authority, read_file(self.folder / "ca.crt"), private=False, replace=True)
        write_file(holder.key, signed.key_pem, private=True, replace=True)
        write_file(holder.certificate, signed.certificate_pem, private=False, replace=True)

    def _hosts(self, identity: Identity, hosts: Sequence[str]) -> tuple[str, ...]:
        if identity.role.serves and not hosts:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT, "--host", "", f"{identity.path} is a server: its callers check its name",
                "give every name and address under which it is reached",
            )  # fmt: skip
        if hosts and not identity.role.serves:
            raise FedhftError.field(
                ErrorCode.INVALID_ARGUMENT,
                "--host",
                ", ".join(hosts),
                "is for servers only",
                "leave it out",
            )
        return tuple(dict.fromkeys(parse_host(host, "--host") for host in hosts))

    def _unknown(self, name: str) -> FedhftError:
        return FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "name", name, "no certificate was issued under it",
            "see `fedhft certs list`; a name is an identity such as agent/clinic-1, or a serial number",
        )  # fmt: skip


def _trust_domain(certificate: certificates.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(certificates.SubjectAlternativeName).value
    except certificates.ExtensionNotFound as error:
        raise ValueError("ca.crt names no trust domain") from error
    uris = names.get_values_for_type(certificates.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(SCHEME):
        raise ValueError("ca.crt names no trust domain")
    return uris[0].removeprefix(SCHEME)


def _check_days(days: int) -> None:
    if not 1 <= days <= LONGEST_DAYS:
        raise FedhftError.field(
            ErrorCode.INVALID_ARGUMENT, "--days", days, "is out of range", f"give 1 to {LONGEST_DAYS}"
        )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
