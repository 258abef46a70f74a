"""Five families of errors; each says what happened and what to do next, and has an exit code.

Exit codes: 10-19 ConfigError (mend your file) · 20-29 RefusedError (policy said no) · 30-39 DataError (mend the scan) ·
40-49 ProtocolError (the other side misbehaved) · 50-59 AuditError (the record does not hold) · 70 InternalError (our bug).
Only `code` ever crosses the wall; the text stays where it was raised. No text holds a patient's value.
"""

from typing import ClassVar


class MotetError(Exception):
    """What happened, and the next action."""

    exit_code: ClassVar[int] = 70
    code: ClassVar[str] = "E-INTERNAL"

    def __init__(self, what: str, *, action: str) -> None:
        super().__init__(f"{what} {action}")
        self.what, self.action = what, action


class InternalError(MotetError):
    """A bug of ours."""


class ConfigError(MotetError):
    """A file or an option is wrong."""

    exit_code, code = 10, "E-CONFIG"


class RefusedError(MotetError):
    """The hospital's policy said no."""

    exit_code, code = 20, "E-REFUSED"


class DataError(MotetError):
    """A scan or a table cannot be used."""

    exit_code, code = 30, "E-DATA"


class ProtocolError(MotetError):
    """The other side misbehaved."""

    exit_code, code = 40, "E-PROTOCOL"


class AuditError(MotetError):
    """A record does not hold."""

    exit_code, code = 50, "E-AUDIT"


class AlreadyExists(ConfigError):
    """A file that must not be overwritten is there."""

    exit_code, code = 11, "E-CONFIG-EXISTS"


class NotSetUp(ConfigError):
    """A folder or file that an earlier command makes is missing."""

    exit_code, code = 12, "E-CONFIG-MISSING"


class PortInUse(ConfigError):
    """Somebody listens on the port already."""

    exit_code, code = 13, "E-CONFIG-PORT"


class AlreadyRunning(ConfigError):
    """A second process on top of the first."""

    exit_code, code = 14, "E-CONFIG-RUNNING"


class VaultNotRunning(ConfigError):
    """Nobody answers on the vault's socket."""

    exit_code, code = 15, "E-VAULT"


class RecordUnwritable(ConfigError):
    """The ledger, or the list of what was set aside, cannot be written: full disk, read-only, or locked."""

    exit_code, code = 16, "E-CONFIG-LEDGER"


class BudgetExhausted(RefusedError):
    """The hospital's cap on epsilon or delta would be passed."""

    exit_code, code = 21, "E-REFUSED-BUDGET"


class StudyNotApproved(RefusedError):
    """The study's hash is not in site.toml."""

    exit_code, code = 22, "E-REFUSED-STUDY"


class RosterNotApproved(RefusedError):
    """The roster is not the one that the hospital approved."""

    exit_code, code = 23, "E-REFUSED-ROSTER"


class RosterTooSmall(RefusedError):
    """Too few hospitals, or too few honest ones, are named in the round."""

    exit_code, code = 24, "E-REFUSED-ROSTER-SIZE"


class TooFewPatients(RefusedError):
    """The cohort is below the hospital's minimum."""

    exit_code, code = 25, "E-REFUSED-PATIENTS"


class OutsidePolicy(RefusedError):
    """The task or one of its parameters is not what the study or the policy allows."""

    exit_code, code = 26, "E-REFUSED-PARAMETERS"


class AlreadyAnswered(RefusedError):
    """An exact statistic was asked again over another roster."""

    exit_code, code = 27, "E-REFUSED-REPEAT"


class ReservationConflict(RefusedError):
    """A reservation was repeated with another content, or is in a state that does not allow the step."""

    exit_code, code = 28, "E-REFUSED-CONFLICT"


class ExactReleasesUsedUp(RefusedError):
    """The hospital's cap on sums without noise is reached."""

    exit_code, code = 29, "E-REFUSED-EXACT"


class NoScans(DataError):
    """The folder holds no usable scan."""

    exit_code, code = 31, "E-DATA-NONE"


class ClinicalTableWrong(DataError):
    """The clinical table cannot be read or joined."""

    exit_code, code = 32, "E-DATA-CLINICAL"


class GeometryRefused(DataError):
    """The slices do not form a volume that can be measured; `reason` is one of the coded reasons."""

    exit_code, code = 33, "E-DATA-GEOMETRY"

    def __init__(self, reason: str) -> None:
        super().__init__(f"The series is set aside: {reason}.", action="Export the series again, or leave it out.")
        self.reason = reason


class NotEstimable(DataError):
    """A statistic has no answer on these data: `diagnosis` names why, `term` names where."""

    exit_code, code = 34, "E-DATA-ESTIMABLE"

    def __init__(self, diagnosis: str, *, term: str, action: str) -> None:
        super().__init__(f"{term}: {diagnosis}.", action=action)
        self.diagnosis, self.term = diagnosis, term


class TooManyPatients(DataError):
    """More patients would enter a noisy sum than the study declares."""

    exit_code, code = 35, "E-DATA-TOO-MANY"


class NoisyNotExact(DataError, AttributeError):
    """Something that reads exact moments was given noisy ones: its interval would ignore the noise."""

    exit_code, code = 36, "E-DATA-NOISY"


class PullFailed(DataError):
    """A PACS or a web server does not answer, or does not send what was asked."""

    exit_code, code = 37, "E-DATA-PULL"


class BadEnvelope(ProtocolError):
    """An envelope cannot be parsed, is too large, or its signature does not hold."""

    exit_code, code = 41, "E-ENVELOPE"


class RoundRepeated(ProtocolError):
    """A round number that is not above the last one answered."""

    exit_code, code = 42, "E-ROUND"


class SetupMissing(ProtocolError):
    """No pair keys for this run: the state was lost, or set-up was never made."""

    exit_code, code = 43, "E-SETUP"


class ContextMismatch(ProtocolError):
    """Two hospitals were told different things, or say so; `hospitals` names the pair where it is known."""

    hospitals: tuple[str, ...] = ()

    exit_code, code = 44, "E-CONTEXT"


class HospitalMissing(ProtocolError):
    """Too few hospitals are left to go on."""

    exit_code, code = 45, "E-MISSING"


class LateUpload(ProtocolError):
    """An upload that came after its round was over."""

    exit_code, code = 46, "E-LATE"


class SecondUpload(ProtocolError):
    """A hospital sent a second, different upload, or more bytes than it signed."""

    exit_code, code = 47, "E-SECOND"


class LinkLost(ProtocolError):
    """The other end of the lane was not heard of for the plan's patience."""

    exit_code, code = 48, "E-LINK"


class BadQuery(ProtocolError):
    """A query of an analysis cannot be parsed, is too large, or asks what its kernel does not answer."""

    exit_code, code = 49, "E-QUERY"


class RecordDamaged(AuditError):
    """A ledger, checkpoint or bundle was changed after it was written."""

    exit_code, code = 51, "E-AUDIT-INTEGRITY"


class CapPassed(AuditError):
    """The entries add up to more than the cap."""

    exit_code, code = 52, "E-AUDIT-BUDGET"


class AccountantsDisagree(AuditError):
    """Two accountants give different epsilons."""

    exit_code, code = 54, "E-AUDIT-ACCOUNTANTS"


class AnotherRoster(RecordDamaged):
    """A record is whole, but of another roster than the one that was given."""

    exit_code, code = 53, "E-AUDIT-ROSTER"


class OtherVersion(RecordDamaged):
    """A record is whole, but this version of Motet cannot read what it holds: it may be of another version."""

    exit_code, code = 58, "E-AUDIT-VERSION"


class LedgerRewritten(RecordDamaged):
    """A ledger is not the one that its own signature says it was: it is shorter, or another one."""

    exit_code, code = 55, "E-AUDIT-REWRITTEN"


class Unwitnessed(AuditError):
    """A ledger has fewer witnesses than asked for, or ends before what they saw."""

    exit_code, code = 56, "E-AUDIT-UNWITNESSED"


class UndeclaredEgress(AuditError):
    """The coordinator received something that no hospital's ledger declares."""

    exit_code, code = 57, "E-AUDIT-EGRESS"
