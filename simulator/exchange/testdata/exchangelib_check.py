#!/usr/bin/python3
"""Runs exchangelib, an EWS client that this project did not write, against a running simulator.

Environment: EWS_URL, EWS_USERNAME, EWS_PASSWORD, MAILBOX, OTHER, CONTROL_URL; REQUESTS_CA_BUNDLE names the CA. AUTH is basic or ntlm,
GROMOX is set for a server that is not Microsoft's.
Prints a line for each step that held and ends with status 0; ends with a traceback otherwise.
"""
import os
import threading
import urllib.request
from datetime import datetime, timedelta

from exchangelib import (BASIC, NTLM, DELEGATE, IMPERSONATION, Account, Configuration, Credentials, FaultTolerance, Mailbox,
                         UTC, EWSDateTime)
from exchangelib.errors import (ErrorImpersonateUserDenied, ErrorItemNotFound, ErrorNonExistentMailbox, EWSError,
                                UnauthorizedError)
from exchangelib.items import MeetingRequest, Message
from exchangelib.properties import NewMailEvent

MAILBOX, OTHER = os.environ["MAILBOX"], os.environ["OTHER"]
AUTH = {"basic": BASIC, "ntlm": NTLM}[os.environ.get("AUTH", "basic")]
GROMOX = "GROMOX" in os.environ


def account(address, username=os.environ["EWS_USERNAME"], password=os.environ["EWS_PASSWORD"], access=IMPERSONATION):
    config = Configuration(service_endpoint=os.environ["EWS_URL"], credentials=Credentials(username, password),
                           auth_type=AUTH)
    return Account(primary_smtp_address=address, config=config, autodiscover=False, access_type=access)


def deliver(address, message, received=""):
    url = f"{os.environ['CONTROL_URL']}/messages?to={address}&received={received}"
    with urllib.request.urlopen(urllib.request.Request(url, data=message.encode("utf-8"), method="POST")) as r:
        assert r.status == 200, r.status


def mail(subject, body="Hello", extra="", kind="text/plain; charset=utf-8"):
    return (f"From: =?utf-8?q?J=C3=BCrgen?= <juergen@partner.example>\r\nTo: {MAILBOX}\r\nSubject: {subject}\r\n"
            f"Date: Sun, 22 Nov 2026 10:00:00 +0100\r\nMessage-ID: <{subject}@partner.example>\r\n{extra}"
            f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n{body}\r\n")


def held(text):
    print("ok", text, flush=True)


a = account(MAILBOX)
assert a.protocol.version.build.major_version == 15, a.protocol.version
assert a.inbox.total_count == 0
held("the Inbox of an impersonated mailbox is found, empty")

deliver(MAILBOX, mail("one", "First body"), "2026-11-22T09:00:00Z")
deliver(MAILBOX, mail("two", "Grüße", "Importance: high\r\nSensitivity: private\r\nCc: Anna <anna@partner.example>\r\n"),
        "2026-11-22T09:00:01Z")
deliver(MAILBOX, mail("three", "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nEND:VCALENDAR",
                      kind="text/calendar; method=REQUEST; charset=utf-8"), "2026-11-22T09:00:02Z")
a.inbox.refresh()
assert (a.inbox.total_count, a.inbox.unread_count) == (3, 3), (a.inbox.total_count, a.inbox.unread_count)
items = list(a.inbox.all().order_by("-datetime_received"))
assert [i.subject for i in items] == ["three", "two", "one"], items
assert isinstance(items[0], MeetingRequest) and isinstance(items[1], Message), items
held("items are listed, the newest first, a meeting request as one")

two, one = items[1], items[2]
assert one.sender == Mailbox(name="Jürgen", email_address="juergen@partner.example", routing_type="SMTP",
                             mailbox_type="Mailbox"), one.sender
assert one.author.email_address == "juergen@partner.example"
assert one.text_body.strip() == "First body" and "First body" in one.body, (one.text_body, one.body)
assert b"Subject: one" in one.mime_content
assert one.message_id == "<one@partner.example>"
if not GROMOX:  # its times have fractions of a second, which exchangelib does not read
    assert one.datetime_received == EWSDateTime(2026, 11, 22, 9, 0, 0, tzinfo=UTC), one.datetime_received
    assert one.datetime_sent == EWSDateTime(2026, 11, 22, 9, 0, 0, tzinfo=UTC), one.datetime_sent
assert not one.is_read and one.importance == "Normal"
assert two.importance == "High" and two.sensitivity == "Private" and two.cc_recipients[0].name == "Anna", two
assert "Grüße" in two.text_body
assert {h.name: h.value for h in one.headers}["Subject"] == "one"
held("items are read: subject, sender, body, MIME content, times, headers")

assert [i.subject for i in a.inbox.filter(subject="two")] == ["two"]
assert [i.subject for i in a.inbox.filter(subject__contains="O").order_by("datetime_received")] == ["one", "two"]
since = EWSDateTime(2026, 11, 22, 9, 0, 1, tzinfo=UTC)
assert a.inbox.filter(datetime_received__gte=since, is_read=False).count() == 2
assert [i.subject for i in a.inbox.all().order_by("datetime_received")[:2]] == ["one", "two"]
assert a.inbox.get(id=one.id).subject == "one"
held("items are searched, sorted, paged and found by id")

deliver(MAILBOX, mail("files", "--b\r\nContent-Type: text/plain\r\n\r\nBody\r\n--b\r\nContent-Type: application/pdf; name=plan.pdf\r\n"
                      "Content-Disposition: attachment\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n--b--",
                      kind="multipart/mixed; boundary=b"), "2026-11-22T08:00:00Z")
files = a.inbox.get(subject="files")
assert files.has_attachments, files
assert [(f.name, f.content_type, f.size, f.is_inline) for f in files.attachments] == [
    ("plan.pdf", "application/pdf", 4, False)], files.attachments
held("attachments are listed")

assert a.root.get_default_folder(type(a.sent)).name == "Sent Items"
assert "Inbox" in [f.name for f in a.msg_folder_root.children]
assert [m.email_address for m in a.protocol.resolve_names([MAILBOX])] == [MAILBOX]
held("folders are walked and names resolved")

gone = next(iter(a.fetch(ids=[(one.id[:-8] + "AAAAAAA=", one.changekey)])))
assert isinstance(gone, Exception), gone
held("an unknown item is an error of its own")

with a.inbox.streaming_subscription() as subscription:
    got = []

    def hear():
        for n in a.inbox.get_streaming_events(subscription, connection_timeout=1, max_notifications_returned=1):
            got.append(n)

    hearer = threading.Thread(target=hear)
    hearer.start()
    deliver(MAILBOX, mail("four", "Rings"))
    hearer.join(30)
    assert not hearer.is_alive(), "no notification within 30 s"
    assert got and got[0].subscription_id == subscription, got
    new = [e for e in got[0].events if isinstance(e, NewMailEvent)]
    assert len(new) == 1 and new[0].item_id.id, got
    assert a.inbox.get(id=new[0].item_id.id).subject == "four"
held("a streaming subscription tells of new mail, and is given back")

b = account(OTHER, username=OTHER, access=DELEGATE)
assert b.inbox.total_count == 0
held("a mailbox's own user reads its own mailbox")


def refused(error, *args, **kwargs):
    try:
        account(*args, **kwargs).inbox.refresh()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


refused(UnauthorizedError, MAILBOX, password="wrong")
held("a wrong password is refused")
refused(ErrorImpersonateUserDenied, MAILBOX, username=OTHER)
held("a mailbox's own user may not impersonate")
refused(EWSError if GROMOX else ErrorNonExistentMailbox, "nobody@contoso.example")
held("a mailbox that is not there is named as such")
