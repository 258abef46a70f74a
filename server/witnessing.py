"""The end of a run: hospitals close it, and cosign the checkpoints with which all the others' ledgers end."""

from collections.abc import Mapping

from common.errors import BadEnvelope
from common.wire import Envelope
from server.exchange import Exchange


def close(exchange: Exchange, members: tuple[str, ...], *, outcomes: Mapping[str, str]) -> dict[str, Envelope]:
    """Let hospitals erase the run's keys, pass their checkpoints on to all, and return what each said first.

    A hospital that does not cosign is written down; the result does not wait for it.
    """
    witnesses = exchange.witnesses
    seen = exchange.seen(members)
    shown = {name: [text] for name, text in seen.items()}
    for name in shown if witnesses else ():
        before = witnesses.passed(name) if witnesses else None
        if before is not None and before not in shown[name]:
            shown[name].append(before)
    bodies = {name: {"outcomes": dict(outcomes), "witnessed": shown.get(name, [])} for name in members}
    replies = exchange.ask("close", bodies, kind="closed", part="closed")
    if witnesses is None:
        return replies
    for name, reply in replies.items():
        witnesses.recall(name, reply.body.get("held"))
    links = witnesses.cosign({name: reply.body.get("ledger") for name, reply in replies.items()})
    newest = exchange.seen(replies)  # a ledger may have grown meanwhile
    passed_on = {
        name: {"outcomes": dict(outcomes), "passed_on": links, "witnessed": [newest[name]] if name in newest else []}
        for name in replies
    }
    codes = {}
    for name, reply in exchange.ask("close", passed_on, kind="closed", part="witnessed").items():
        try:
            witnesses.cosigned(name, reply.body.get("cosigned"))
        except BadEnvelope as error:
            codes[name] = error.code
    if codes:
        exchange.say("missing", step="witness", codes=codes)
    return replies
