"""Conformance: whether this installation draws the noise and the samples that its ledgers will claim.

The hospital's code runs in a process of its own, started here; what it drew is judged with numpy and scipy alone.
"""

import subprocess
import sys
from typing import Final

from common.audit.attack import noise, sampling
from common.audit.attack.check import Check
from common.audit.attack.drawn import Drawn, parse
from common.errors import AuditError

ROUNDS_LEAST: Final = 2
ROUNDS_MOST: Final = 50
SECONDS_MOST: Final = 600


def drawn_by_this_installation(*, rounds: int) -> Drawn:
    """Return draws of the installed hospital code; raises AuditError when it does not draw, RecordDamaged on strange bytes."""
    command = [sys.executable, "-m", "client.attack.draws", str(rounds)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=SECONDS_MOST)
    except subprocess.TimeoutExpired:
        raise AuditError(
            f"The hospital's code of this installation drew no noise within {SECONDS_MOST} s.",
            action="Try fewer rounds, or a machine that is less busy.",
        ) from None
    if done.returncode:
        raise AuditError(
            f"The hospital's code of this installation ended with {done.returncode} instead of drawing noise.",
            action="Install Motet again, as the hospitals do, and report it if it stays.",
        )
    return parse(done.stdout)


def checks(drawn: Drawn) -> list[Check]:
    """Return all checks of noise and samples; a right build fails any of them with probability below FALSE_ALARM."""
    return [*noise.checks(drawn), *sampling.checks(drawn)]
