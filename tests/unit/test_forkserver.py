"""Jobs as forks of a server: streams, surroundings, status, and how either end's death ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tensorpress import forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")

WORK = '''
"""What the forks of a test do."""

import os
import sys
import time


def tell(name):
    print(name, os.getcwd(), os.environ.get("TOLD"), "json" in sys.modules, os.getpgrp())
    print("aside", file=sys.stderr)
    return 3


def wait(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
    return 0


def fail(what):
    raise ValueError(what)


def die(number):
    os.kill(os.getpid(), number)
'''
CALL = (
    "import sys, work; from tensorpress import forkserver; "
    "sys.exit(forkserver.call(getattr(work, sys.argv[1]), eval(sys.argv[2])))"
)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of this process, which finds ``work`` in the folder that is returned."""
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    forkserver.start(["json", "no_such_module"])
    address = Path(os.environ[forkserver.ADDRESS])
    yield tmp_path
    assert forkserver._server is not None
    forkserver._server.stdin.close()  # type: ignore[union-attr] - as when this process ends
    forkserver._server.wait(timeout=20)
    assert not address.parent.exists()
    os.environ.pop(forkserver.ADDRESS)


def script(*arguments: str, **options: object) -> subprocess.Popen[str]:
    """A script that asks for a fork and ends as it ends."""
    return subprocess.Popen(
        [sys.executable, "-c", CALL, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,  # type: ignore
    )  # fmt: skip


def started(file: Path) -> psutil.Process:
    """The fork that says in a file that it waits."""
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return psutil.Process(int(file.read_text()))


def test_a_fork_has_the_surroundings_of_its_script(driver: Path) -> None:
    folder = driver / "elsewhere"
    folder.mkdir()
    environment = {**os.environ, "TOLD": "yes"}
    asking = script("tell", "'me'", cwd=folder, env=environment, process_group=0)
    out, err = asking.communicate(timeout=60)
    # "json": imported by the server, once for all
    assert out.split() == ["me", str(folder), "yes", "True", str(asking.pid)]
    assert err == "aside\n"
    assert asking.returncode == 3


def test_an_error_and_a_signal_end_the_script(driver: Path) -> None:
    failed = script("fail", "'why'")
    assert "ValueError: why" in failed.communicate(timeout=60)[1]
    assert failed.returncode == 1
    killed = script("die", "9")
    killed.communicate(timeout=60)
    assert killed.returncode == 128 + signal.SIGKILL


def test_a_fork_dies_with_its_script(driver: Path) -> None:
    asking = script("wait", repr(str(driver / "pid")))
    fork = started(driver / "pid")
    asking.kill()
    asking.communicate()
    fork.wait(timeout=20)


def test_forks_die_with_the_server_and_their_scripts_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    forkserver.start([])
    asking = script("wait", repr(str(tmp_path / "pid")))
    fork = started(tmp_path / "pid")
    assert forkserver._server is not None
    forkserver._server.kill()
    assert "is gone" in asking.communicate(timeout=60)[1]
    assert asking.returncode == 1
    fork.wait(timeout=20)


def test_without_a_server_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    assert forkserver.call(abs, 1) is None
    monkeypatch.setenv(forkserver.ADDRESS, "/no/such/socket")
    assert forkserver.call(abs, 1) is None


def test_no_server_where_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    forkserver.start([])
    assert forkserver.ADDRESS not in os.environ
