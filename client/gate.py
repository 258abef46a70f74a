"""Whether an exact sum may leave: all that it is held to, in order, and the two records of what was told before."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from client import between, disclosure, exact, harmonise, pipeline, policy, released
from client.config import Policy
from client.entering import counting, definitions
from client.inside import Cohort
from client.kernels.rows import Rows, Seat
from client.ledger import Ledger
from common import harmonisation, query, wire
from common.announcement import Announcement
from common.contribution import Contribution
from common.errors import ExactReleasesUsedUp, OutsidePolicy
from common.study import Study


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked in a round whose mechanism is the study's: `blob` without coefficients of a harmonisation.

    `cohort` as this sum sees it, `whole` as it was measured; `models`: SHA-256 of the models that were trained on in this run;
    `others`: further studies that this hospital keeps, as measured.
    """

    announced: Announcement
    blob: bytes
    study: Study
    cohort: Cohort
    whole: Cohort
    policy: Policy
    seat: Seat
    models: tuple[str, ...]
    others: tuple[tuple[Study, Cohort], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An exact sum that may leave: the two records as they will be, and a query's answer."""

    answered: exact.Record
    released: released.Record
    contribution: Contribution | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The records in `folder`, under the hospital's `secret`, and the ledger: across runs, restarts and studies."""

    folder: Path
    secret: bytes
    ledger: Ledger

    def harmonised(self, blob: bytes, *, announced: Announcement, study: Study, cohort: Cohort) -> tuple[bytes, Cohort]:
        """Return the request's bytes without the coefficients, and the cohort harmonised by them.

        The coefficients are on disk before they meet a value: whatever becomes of the round, no others are ever tried.
        """
        blob, coefficients = harmonisation.unpack(blob)
        if announced.task == "gram" and blob:
            raise OutsidePolicy("A Gram is asked with nothing beside it.", action="Check the coordinator's version.")
        asked, position = harmonise.question(study, coefficients=coefficients), study.harmonised
        made = definitions(study, variables=() if position is None else study.asked(position).variables)
        record = exact.check(
            self._exact_file, questions=asked, roster=announced.hospitals, secret=self.secret, definitions=made
        )
        exact.save(self._exact_file, record)
        return blob, pipeline.harmonised(coefficients, study=study, cohort=cohort)

    def check(self, asked: Asked) -> Checked:
        """Return the sum that may leave; raises the refusal of whatever it is held to first.

        Of a query what is asked counts on disk before its numbers meet a value (client/released.py). Nothing else is written.
        """
        announced, blob, study, cohort = asked.announced, asked.blob, asked.study, asked.cohort
        again = self._check_count(announced, asked.policy) and announced.task == "gram"
        if announced.task == "evaluate":
            scored = tuple(hashlib.sha256(blob).hexdigest() for blob in wire.unpack(blob, count=announced.index))
            policy.check_models(study, seen=asked.models, scored=scored)
        if announced.task == "query":
            policy.check_query(query.parse(blob), index=announced.index, study=study)
            before = self.ledger.sums(announced.run, statistic=announced.mechanism.entry()["statistic"])
            policy.check_sums(before - {announced.round}, index=announced.index, study=study)
        entering = pipeline.entering(announced, blob=blob, study=study, cohort=cohort)
        policy.check_cohort(asked.policy, patients=len(entering.patients))
        answered = exact.check(
            self._exact_file,
            questions=entering.questions,
            roster=announced.hospitals,
            secret=self.secret,
            under=announced.roster,
            again=again,
            definitions=entering.definitions,
        )
        record, contribution = released.read(self._released_file), None
        if entering.rows is not None:
            counted, most, form = counting(announced, blob=blob, study=study, rows=entering.rows)
            asking = released.Asking(
                label=f"{announced.mechanism.entry()['statistic']} of {announced.study}",
                variables=entering.variables,
                roster=announced.hospitals,
                patients=entering.patients,
                kernel=entering.kernel,
                grids=entering.grids,
                functions=entering.functions,
                query_sha256=announced.blob_sha256 if announced.task == "query" else "",
                counted=counted,
                form=form,
            )
            judge = between.Judge(
                policy=asked.policy, study=study, cohort=cohort, whole=asked.whole, secret=self.secret, others=asked.others
            )
            after = released.check(record, asking=asking, cell_min=asked.policy.cell_min, secret=self.secret, judge=judge)
            if announced.task == "query":
                policy.check_site_sums(asked.policy, asked=query.parse(blob), study=study, honest=asked.seat.honest)
                held = released.asked(record, asking=asking, queries_most=most)  # on disk before its numbers meet a value
                if held is not record:
                    released.save(self._released_file, held)
                after = released.answered(replace(after, queries=held.queries, open=held.open), asking=asking)
            record = after
            contribution = _disclosed(asked, rows=entering.rows)
        if contribution is not None:
            left = len(cohort.patients) - len(entering.patients)
            contribution = pipeline.with_left_out(contribution, patients=left, cell_min=asked.policy.cell_min)
        return Checked(answered=answered, released=record, contribution=contribution)

    def save(self, checked: Checked) -> None:
        """Write both records down, before the sum leaves."""
        exact.save(self._exact_file, checked.answered)
        released.save(self._released_file, checked.released)

    def _check_count(self, announced: Announcement, rules: Policy) -> bool:
        """Refuse more exact sums than the hospital allows; say whether this one has counted for good already.

        A study's Gram and each of its analyses count once, over all runs: client/exact.py lets a Gram be answered again over
        the identical rows and roster only, and client/released.py counts the queries of an analysis.
        """
        counted, once = self.ledger.exact_counted()
        if (announced.study, announced.mechanism.entry().get("statistic")) in once:
            return True
        if counted >= rules.exact_releases_max:
            raise ExactReleasesUsedUp("The exact releases are used up.", action="Two officers may raise exact_releases_max.")
        return False

    @property
    def _exact_file(self) -> Path:
        return self.folder / "exact.json"

    @property
    def _released_file(self) -> Path:
        return self.folder / "released.json"


def _disclosed(asked: Asked, *, rows: Rows) -> Contribution | None:
    """Return a query's answer once the disclosure policy has passed it; a Gram is checked and made later."""
    if asked.announced.task == "gram":
        disclosure.check_columns(asked.policy, values=rows.values, names=rows.names)
        return None
    disclosure.check_query(asked.policy, asked=query.parse(asked.blob), rows=rows, seat=asked.seat)
    answer, contribution = pipeline.answer_query(asked.announced, blob=asked.blob, rows=rows, seat=asked.seat)
    disclosure.check_answer(asked.policy, answer=answer)
    return contribution
