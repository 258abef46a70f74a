"""The architecture, as the repository states it: imports, sizes, docstrings, what is installed and what the bundle carries."""

import ast
import functools
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = [path for folder in ("common", "client", "server") for path in sorted((ROOT / folder).rglob("*.py"))]
WRITTEN = [path for path in PRODUCT if "_pb2" not in path.name]  # the vault's messages are generated
IDS = [str(path.relative_to(ROOT)) for path in WRITTEN]
LINES_MOST = 500


def loaded(modules, *names):
    """The modules among `names` that a fresh process has loaded after importing `modules`, one after another."""
    code = f"import sys, {modules}\nprint(*(name for name in {names!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.split())


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def program(name):
    return Path(sys.executable).parent / name


def test_import_contracts_hold():
    done = subprocess.run(
        [program("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_the_relay_cannot_read_scans_or_train():
    heavy = ("torch", "opacus", "pydicom", "SimpleITK", "client.vault", "client.pipeline", "client.imaging")
    assert loaded("client.app", *heavy, "flwr") == {"flwr"}


def test_the_auditor_needs_neither_torch_nor_flower_nor_dicom():
    modules = "common.cli, common.audit.verify, common.audit.bundle"
    assert loaded(modules, "torch", "opacus", "flwr", "grpc", "pydicom", "client", "server", "numpy") <= {"numpy"}


def test_what_guards_the_wall_needs_neither_torch_nor_flower_nor_dicom():
    assert loaded("client.policy, client.mask, client.session, server.journal", "torch", "opacus", "flwr", "pydicom") == set()


def test_the_coordinator_cannot_name_patient_data():
    assert loaded("server.run", "client", "pydicom", "SimpleITK") == set()


@pytest.mark.parametrize("path", WRITTEN, ids=IDS)
def test_a_file_is_not_too_long(path):
    assert len(path.read_text().splitlines()) <= LINES_MOST


@pytest.mark.parametrize("path", WRITTEN, ids=IDS)
def test_a_file_says_in_its_first_line_what_it_is(path):
    first = (ast.get_docstring(parsed(path)) or "").partition("\n")[0]
    assert first.endswith(".")


@pytest.mark.parametrize("path", [path for path in WRITTEN if path.name == "__init__.py"], ids=str)
def test_a_packages_file_is_one_sentence_and_nothing_else(path):
    tree = parsed(path)
    assert len(tree.body) == 1
    text = ast.get_docstring(tree) or ""
    assert text.endswith(".")
    assert not re.search(r"\. [A-Z]", text)


def dotted(node):
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_pickled_or_evaluated(path):
    nodes = list(ast.walk(parsed(path)))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    assert not {name.partition(".")[0] for name in imported} & {"pickle", "dill", "joblib", "marshal", "shelve"}
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    assert not {dotted(call.func) for call in calls} & {"eval", "exec", "compile", "__import__", "torch.load", "torch.save"}
    for call in calls:
        allowed = [keyword.value for keyword in call.keywords if keyword.arg == "allow_pickle"]
        assert all(isinstance(value, ast.Constant) and value.value is False for value in allowed)
        assert dotted(call.func) not in {"np.load", "np.save", "np.savez"} or allowed


@pytest.mark.parametrize("path", WRITTEN, ids=IDS)
def test_nothing_is_asserted_outside_tests(path):
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(parsed(path)))


def test_package_names_are_ours_alone():
    owners = metadata.packages_distributions()
    for package in ("client", "server", "common"):
        assert set(owners.get(package, ["motet"])) == {"motet"}


def test_no_test_folder_shadows_a_package():
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_the_flower_bundle_carries_configuration_and_no_code(tmp_path):
    environment = {
        **os.environ,
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(tmp_path / "flower"),
        "PATH": f"{program('x').parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    (tmp_path / "out").mkdir()
    subprocess.run(
        [program("flwr"), "build", "--app", ROOT / "server" / "bundle"],
        cwd=tmp_path / "out",
        env=environment,
        capture_output=True,
        check=True,
        timeout=120,
    )
    (bundle,) = (tmp_path / "out").glob("*.fab")
    with zipfile.ZipFile(bundle) as inside:
        assert sorted(inside.namelist()) == [".info/CONTENT", "LICENSE", "pyproject.toml"]
        assert b"dependencies = []" in inside.read("pyproject.toml")
