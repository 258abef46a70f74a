"""What hospitals of a federation wrote into their ledgers, what they told the coordinator, and the bundle of one of them."""

import json

from common import wire
from common.audit import bundle
from tests.federation import kind as kind_of


def entries(one, name="hosp-a", kind=None):
    """The entries of a hospital's ledger in order, those of one type where a `kind` is named."""
    leaves = map(json.loads, one.vaults[name].ledger.entries())
    return [leaf for leaf in leaves if kind in {None, leaf["type"]}]


def refusals(one, name="hosp-a"):
    """The codes of a hospital's refusals as its ledger has them, which is more than what leaves."""
    return [leaf["code"] for leaf in entries(one, name, "refuse")]


def told(one):
    """Every code that left a hospital as a refusal."""
    return {wire.peek(data).body["code"] for _, data in one.sent if kind_of(data) == "refusal"}


def round_of(data):
    """The round that an envelope is about, if any."""
    body = wire.peek(data).body
    return body["announcement"]["round"] if "announcement" in body else body.get("round")


def exported(one, wanted, name, path):
    """The bundle that a hospital gives an auditor, written to `path` and read again."""
    ledger = one.vaults[name].ledger
    bundle.write(
        path,
        entries=ledger.entries(),
        checkpoint=ledger.checkpoint(ml_dsa=bool(one.roster.member(name).ledger_ml_dsa)),
        roster=one.roster.bytes(),
        studies={wanted.hash(): wanted.canonical_bytes()},
        hospital=name,
    )
    return bundle.read(path)
