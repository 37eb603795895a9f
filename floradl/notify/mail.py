"""Sends a message by SMTP (RFC 5321), with TLS, to the addresses that the URL policy allows.

A server that is not in one's own network must speak TLS; a password is sent to no other without.
"""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Final

from floradl.errors import FloradlError, PermanentError
from floradl.net.addresses import join_port
from floradl.net.proxies import tls_context
from floradl.net.url_policy import UrlPolicy
from floradl.notify.news import Message
from floradl.notify.targets import MailServer

_TIMEOUT: Final = 20.0  # seconds for each step


class MailError(FloradlError):
    """A mail was not sent; the message says why, without the password."""


def send_mail(message: Message, server: MailServer, policy: UrlPolicy, environ: Mapping[str, str]) -> None:
    """Send it. Raises `MailError`, and what the policy and a certificate's file raise."""
    place = join_port(server.host, server.port)
    # A server of one's own network may do without TLS, as `network.trusted_private_hosts` says.
    may_be_plain = _allows(policy, f"http://{place}")
    policy.check(f"https://{place}")
    context = tls_context(environ)
    with _translated(place), _connected(server, policy, context) as smtp:
        smtp.ehlo_or_helo_if_needed()
        if not server.is_tls and smtp.has_extn("starttls"):
            smtp.starttls(context=context)
            smtp.ehlo()
        elif not server.is_tls and not may_be_plain:
            raise MailError(
                f"{place} speaks no TLS: use smtps://, or add {place!r} to network.trusted_private_hosts"
            )
        if server.user:
            smtp.login(server.user, server.password.reveal())
        smtp.send_message(_mail(message, server))


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """Raise as `MailError` what smtplib and sockets raise; what a server says is not repeated."""
    try:
        yield
    except smtplib.SMTPAuthenticationError as error:
        raise MailError(f"{place} refuses user or password ({error.smtp_code})") from None
    except smtplib.SMTPRecipientsRefused as error:
        codes = ", ".join(sorted({str(code) for code, _ in error.recipients.values()}))
        raise MailError(f"{place} takes no mail for the address in to= ({codes})") from None
    except smtplib.SMTPResponseException as error:
        raise MailError(f"{place} does not take the mail ({error.smtp_code})") from None
    except smtplib.SMTPException as error:
        raise MailError(f"{place}: {error}") from None
    except ssl.SSLCertVerificationError as error:
        what = f"{place} has no certificate that is trusted ({error.verify_message})"
        raise MailError(f"{what}: SSL_CERT_FILE names another authority") from None
    except ssl.SSLError as error:
        raise MailError(f"{place} does not speak TLS as expected ({error.reason})") from None
    except TimeoutError:
        raise MailError(f"{place} does not answer in time") from None
    except OSError as error:
        raise MailError(f"{place} cannot be reached ({error.strerror or error})") from None


def _allows(policy: UrlPolicy, url: str) -> bool:
    try:
        policy.check(url)
    except PermanentError:
        return False
    return True


def _connected(server: MailServer, policy: UrlPolicy, context: ssl.SSLContext) -> smtplib.SMTP:
    """Connect, to an address that was judged."""
    if server.is_tls:
        return _SecureMail(server, policy, context)
    return _PlainMail(server, policy)


def _dial(policy: UrlPolicy, host: str, port: int, timeout: float) -> socket.socket:
    trouble: OSError = OSError("the name has no address")
    for address in policy.resolve(host, port, timeout):
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            trouble = error
    raise trouble


class _PlainMail(smtplib.SMTP):
    """SMTP over a connection of ours."""

    def __init__(self, server: MailServer, policy: UrlPolicy) -> None:
        self._policy = policy
        super().__init__(server.host, server.port, timeout=_TIMEOUT)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return _dial(self._policy, host, port, timeout)


class _SecureMail(smtplib.SMTP_SSL):
    """The same, with TLS from the first byte on."""

    def __init__(self, server: MailServer, policy: UrlPolicy, context: ssl.SSLContext) -> None:
        self._policy = policy
        super().__init__(server.host, server.port, timeout=_TIMEOUT, context=context)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self.context.wrap_socket(_dial(self._policy, host, port, timeout), server_hostname=host)


def _mail(message: Message, server: MailServer) -> EmailMessage:
    mail = EmailMessage()
    mail["Subject"] = message.title
    mail["From"] = server.sender
    mail["To"] = ", ".join(server.recipients)
    mail["Date"] = formatdate(localtime=True)
    mail["Message-ID"] = make_msgid(domain=server.sender.rpartition("@")[2])
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no absence notes, please
    mail.set_content(message.text + "\n")
    return mail
