"""The vault's metrics file: whole or absent, readable by its group, and no patient in it."""

import logging
import re
import stat
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client import metrics
from client.config import read_site
from common.errors import DataError
from tests import federation


def samples(path):
    """The file as a Prometheus client reads it: name and labels to value."""
    families = text_string_to_metric_families(path.read_text())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@pytest.fixture
def vault(make_federation):
    return make_federation().vaults["hosp-a"]


@pytest.fixture
def busy_vault(make_federation):
    one, wanted = make_federation(), federation.study()
    one.approve(wanted)
    one.run(wanted)
    return one.vaults["hosp-a"]


def policy(vault):
    return read_site(vault.home).policy


def test_the_file_tells_what_the_ledger_holds(busy_vault):
    busy_vault.ledger.refuse(code="E-ROUND", study=None, round_number=3)
    with metrics.kept(busy_vault.home.folder, ledger=busy_vault.ledger, policy=lambda: policy(busy_vault)) as kept:
        kept.answered()
        kept.turned_away("E-ENVELOPE")
        kept.write(up=True)
        found = samples(busy_vault.home.folder / "metrics.prom")
    spent = busy_vault.ledger.spent(delta=policy(busy_vault).delta_cap)
    assert found[("motet_vault_up",)] == 1
    assert found[("motet_vault_epsilon_spent",)] == float(spent.epsilon_rdp) > 0
    assert found[("motet_vault_epsilon_cap",)] == 10
    assert found[("motet_vault_releases_total", "noise")] == spent.releases_private == 2
    assert found[("motet_vault_releases_total", "exact")] == spent.releases_exact == 2
    assert found[("motet_vault_refusals_total", "E-ROUND")] == spent.refusals == 1
    assert found[("motet_vault_turned_away_total", "E-ENVELOPE")] == 1
    assert abs(found[("motet_vault_last_answer_time_seconds",)] - time.time()) < 60
    assert samples(busy_vault.home.folder / "metrics.prom")[("motet_vault_up",)] == 0


def test_its_group_may_read_it_and_nobody_else_and_nothing_else_is_left(vault):
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)):
        assert stat.S_IMODE((vault.home.folder / "metrics.prom").stat().st_mode) == 0o640
    assert [path.name for path in vault.home.folder.glob("*metrics*")] == ["metrics.prom"]
    assert not list(vault.home.folder.glob(".metrics*"))


def test_no_patient_no_path_and_no_study_is_in_it(busy_vault):
    with metrics.kept(busy_vault.home.folder, ledger=busy_vault.ledger, policy=lambda: policy(busy_vault)):
        text = (busy_vault.home.folder / "metrics.prom").read_text()
    assert "HOSP-A" not in text
    assert str(busy_vault.home.folder) not in text
    assert set(re.findall(r'(\w+)="', text)) <= {"kind", "code"}


def test_refusals_for_the_datas_sake_look_as_they_do_to_the_coordinator(vault):
    for code in (DataError.code, "E-DATA-NONE", "E-REFUSED-PATIENTS", "E-REFUSED-REPEAT", "E-REFUSED-STUDY"):
        vault.ledger.refuse(code=code, study=None, round_number=None)
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)):
        found = samples(vault.home.folder / "metrics.prom")
    told = {key[1]: value for key, value in found.items() if key[0] == "motet_vault_refusals_total"}
    assert told == {"E-REFUSED": 4, "E-REFUSED-STUDY": 1}


def test_refusals_of_several_files_are_counted_once(vault):
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)) as kept:
        for number in range(1, 4):
            vault.ledger.refuse(code="E-ROUND", study=None, round_number=number)
            kept.write(up=True)
            assert samples(vault.home.folder / "metrics.prom")[("motet_vault_refusals_total", "E-ROUND")] == number


def test_the_file_follows_what_happens(vault, monkeypatch):
    monkeypatch.setattr(metrics, "SOONEST_S", 0.01)
    path = vault.home.folder / "metrics.prom"
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)) as kept:
        assert ("motet_vault_last_answer_time_seconds",) not in samples(path)
        kept.answered()
        end = time.monotonic() + 10
        while ("motet_vault_last_answer_time_seconds",) not in samples(path):
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_cap_that_is_edited_is_in_the_next_file_and_a_broken_one_changes_nothing(vault, caplog):
    site, path = vault.home.site_file, vault.home.folder / "metrics.prom"
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)) as kept:
        site.write_text(site.read_text().replace("epsilon_cap = 10 ", "epsilon_cap = 12 "))
        kept.write(up=True)
        assert samples(path)[("motet_vault_epsilon_cap",)] == 12
        site.write_text("[policy\n")
        kept.write(up=True)
        assert samples(path)[("motet_vault_epsilon_cap",)] == 12
    assert ("policy-not-read", "E-CONFIG") in {(record.msg, getattr(record, "code", "")) for record in caplog.records}


def test_a_disk_that_cannot_be_written_is_logged_and_stops_nothing(vault, caplog, tmp_path):
    with (
        caplog.at_level(logging.WARNING),
        metrics.kept(tmp_path / "none", ledger=vault.ledger, policy=lambda: policy(vault)) as kept,
    ):
        kept.write(up=True)
    assert {(record.msg, record.code) for record in caplog.records} == {("metrics-not-written", "E-DISK")}


def test_many_threads_may_tell_at_once(vault):
    with metrics.kept(vault.home.folder, ledger=vault.ledger, policy=lambda: policy(vault)) as kept:
        threads = [threading.Thread(target=lambda: [kept.turned_away("E-ROUND") for _ in range(500)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert samples(vault.home.folder / "metrics.prom")[("motet_vault_turned_away_total", "E-ROUND")] == 4000
