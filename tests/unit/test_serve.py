"""The vault as a process: what it makes at its start, and that it follows site.toml while it runs."""

import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from client import serve
from client.config import Home
from client.vault_pb2 import Chunk
from client.vault_pb2_grpc import VaultStub
from common import logs
from common.errors import OutsidePolicy
from tests import federation
from tests.unit.test_vault_metrics import samples


@pytest.fixture
def started(tmp_path_factory, phantom_scans, cohort_cache):
    """Start a hospital's vault in this process; returns its folder and how to end it."""
    one = federation.Federation(tmp_path_factory.mktemp("s"), phantom_scans, cache=cohort_cache)  # a socket's path is short
    home = Home(one.homes["hosp-a"].folder)
    one.vaults["hosp-a"].close()
    home.cohorts.unlink()  # a link of the tests'
    ended = []

    def start():
        ready, stop = threading.Event(), threading.Event()
        arguments = {"progress": lambda _done, _total: None, "ready": ready, "stop": stop}
        thread = threading.Thread(target=serve.serve, args=(home.folder,), kwargs=arguments)
        thread.start()
        assert ready.wait(30)

        def end():
            stop.set()
            thread.join(30)
            assert not thread.is_alive()

        ended.append(end)
        return end

    yield home, start
    for end in ended:
        end()
    one.close()


def test_a_vault_over_a_restored_backup_makes_the_folders_that_a_backup_lacks(started):
    home, start = started
    shutil.rmtree(home.state)
    start()()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home.state, home.cohorts)] == [0o700, 0o700]


def test_a_vault_multiplies_in_one_thread(started):
    _, start = started

    def threads():
        with ThreadPoolExecutor(1) as fresh:  # as those that answer
            return {fresh.submit(torch.get_num_threads).result(), *numpys()}

    def numpys():
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    before = torch.get_num_threads(), max(numpys())
    torch.set_num_threads(2)
    threadpool_limits(2)
    try:
        assert threads() == {2}
        start()
        assert threads() == {1}
    finally:
        torch.set_num_threads(before[0])
        threadpool_limits(before[1])


def test_a_running_vaults_metrics_follow_an_edited_cap(started):
    home, start = started
    end = start()
    assert samples(home.folder / "metrics.prom")[("motet_vault_epsilon_cap",)] == 10
    home.site_file.write_text(home.site_file.read_text().replace("epsilon_cap = 10 ", "epsilon_cap = 12 "))
    end()
    assert samples(home.folder / "metrics.prom")[("motet_vault_epsilon_cap",)] == 12


def test_a_raised_cap_is_told_in_the_log_of_the_vault_that_answers_nothing(started, caplog):
    home, start = started
    start()
    home.site_file.write_text(home.site_file.read_text().replace("epsilon_cap = 10 ", "epsilon_cap = 12 "))
    with grpc.insecure_channel(f"unix:{home.folder / 'vault.sock'}") as channel, pytest.raises(grpc.RpcError) as refused:
        list(VaultStub(channel).Answer(iter([Chunk(data=b"any")])))
    assert refused.value.details() == OutsidePolicy.code  # no text leaves
    (told,) = (record for record in caplog.records if record.msg == "turned-away")
    assert "name two officers" in logs.JsonLines().format(told)


def test_the_socket_of_a_killed_vault_is_gone_before_the_scans_are_read(started, monkeypatch):
    home, _ = started
    socket, seen = home.folder / "vault.sock", []
    socket.touch()
    opened = serve.Vault.prepare
    monkeypatch.setattr(serve.Vault, "prepare", lambda self, study: seen.append(socket.exists()) or opened(self, study))
    text = home.site_file.read_text()
    home.site_file.write_text(text.replace("allowed_studies = []", f'allowed_studies = ["{"0" * 64}"]'))
    with pytest.raises(Exception, match="not approved"):
        serve.serve(home.folder, progress=lambda _done, _total: None, ready=threading.Event(), stop=threading.Event())
    assert seen == [False]
