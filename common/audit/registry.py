"""The deployment record of one hospital: what a public registry of differentially private deployments asks for (tier 3)."""

from typing import Any

from common.audit.bundle import Bundle
from common.audit.verify import Verdict


def record(bundle: Bundle, verdict: Verdict) -> dict[str, Any]:
    """Return the record of a verified bundle, as JSON. Source: the tiers of the deployment registry, arXiv 2509.13509."""
    return {
        "tier": 3,
        "curator": verdict.hospital,
        "use": sorted(bundle.studies),
        "product": "motet",
        "flavour": "approximate differential privacy",
        "model": "distributed: each hospital adds a share of the noise, the coordinator sees sums",
        "unit": {"of": "patient", "detail": "all scans and table rows of one patient of this hospital"},
        "adjacency": "add-or-remove-one",
        "parameters": {
            "epsilon": _text(verdict.epsilon_pld if verdict.epsilon_pld is not None else verdict.epsilon_rdp),
            "delta": _text(verdict.delta),
            "epsilon_limit": _text(verdict.epsilon_cap),
            "releases": verdict.releases_private,
        },
        "accounting": {
            "gate": "Renyi filter, valid under adaptive choices",
            "reported": "RDP" if verdict.epsilon_pld is None else "PLD, two implementations",
            "epsilon_rdp": _text(verdict.epsilon_rdp),
        },
        "unprotected_quantities": sorted({f"{one.statistic} of {one.study}" for one in verdict.exact}),
        "implementation": {
            "noise": "exact discrete Gaussian shares, AES-256-CTR from an operating system key",
            "ledger": {"origin": verdict.origin, "entries": verdict.entries, "root": verdict.root},
            "witnesses": list(verdict.witnesses),
        },
    }


def _text(number: object) -> str | None:
    return None if number is None else f"{number:f}"
