#!/usr/bin/env bash
# One would expect: `notify(body="…")` sends the text as it is. What happens: without `body_format` Apprise takes the
#   body for what the service likes best, and for mail that is HTML: line ends are no line ends, and `<prompt>` is a
#   tag; the plain part of the mail, which Apprise makes out of it, lacks the word and has one line. The result is True.
# Versions: apprise 2.3.0, aiosmtpd 1.4.6 (PyPI).
# Why it matters: reports become one paragraph, and what they quote vanishes, in some services and not in others.
# Instead: always `body_format=NotifyFormat.TEXT` (or the one that the body has).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -qq --disable-pip-version-check apprise==2.3.0 aiosmtpd==1.4.6

"$work/venv/bin/python" - <<'PY'
import email
import email.policy
import importlib.metadata
import socket

from aiosmtpd.controller import Controller
from apprise import Apprise, NotifyFormat

mails = []


class Keep:
    async def handle_DATA(self, server, session, envelope):
        mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
site = Controller(Keep(), hostname="127.0.0.1", port=port)
site.start()
print("apprise", importlib.metadata.version("apprise"))
sender = Apprise()
sender.add(f"mailto://127.0.0.1:{port}/?from=me@example.com&to=you@example.com&mode=insecure")
body = "2 runs failed:\nfirst: no <prompt> given\nsecond: a < b"
assert sender.notify(body=body)
assert sender.notify(body=body, body_format=NotifyFormat.TEXT)
site.stop()
plain = [mail.get_body(("plain",)).get_content().rstrip().splitlines() for mail in mails]
html = mails[0].get_body(("html",)).get_content()
print("without body_format, plain:", plain[0])
print("                     html:", repr(html))
print("with it:                  ", plain[1])
assert len(plain[0]) == 1 and "<prompt>" not in plain[0][0]
assert "<prompt>" in html and "<br" not in html
assert plain[1] == body.splitlines()
PY
echo "As stated: without body_format, lines and words are lost."
