"""Jobs as forks of a server: streams, surroundings, status, and how either end's death ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tensorpress.running import forkserver

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


def ask(path):
    """A job whose driver is gone asks for a fork of its own."""
    from tensorpress.running import forkserver
    wait_for = path + ".go"
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while not os.path.exists(wait_for):
        time.sleep(0.02)
    return forkserver.call("work:tell", "inner")


def fail(what):
    raise ValueError(what)


def die(number):
    os.kill(os.getpid(), number)
'''
CALL = (
    "import sys; from tensorpress.running import forkserver; "
    "sys.exit(forkserver.call(f'work:{sys.argv[1]}', eval(sys.argv[2])))"
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


def test_script_and_fork_that_die_together_leave_the_server_alive(driver: Path) -> None:
    asking = script("wait", repr(str(driver / "pid")))
    fork = started(driver / "pid")
    assert forkserver._server is not None
    forkserver._server.send_signal(signal.SIGSTOP)  # so that it sees both at once
    asking.kill()
    fork.kill()
    asking.communicate()
    time.sleep(0.2)
    forkserver._server.send_signal(signal.SIGCONT)
    after = script("tell", "'me'")
    after.communicate(timeout=60)
    assert after.returncode == 3


def test_a_request_cut_short_costs_no_other_job(driver: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[forkserver.ADDRESS])
        socket.send_fds(connection, [forkserver._LENGTH.pack(100)], [0, 1, 2])
        connection.sendall(b"half")
    after = script("tell", "'me'")
    after.communicate(timeout=60)
    assert after.returncode == 3


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_ends_the_script_or_its_fork(
    begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(tmp_path / "jobs")
    monkeypatch.setenv(forkserver.ADDRESS, address)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        asking = script("wait", "''", process_group=0)
        connection, _ = listener.accept()
        with connection, forkserver._received(connection):  # it waits for an answer now
            if begun:
                connection.sendall(forkserver._BEGUN)
            time.sleep(0.5)
            asking.send_signal(signal.SIGINT)
            if begun:
                time.sleep(0.5)
                assert asking.poll() is None
                connection.sendall(forkserver._STATUS.pack(7))
            assert asking.wait(timeout=20) == (7 if begun else -signal.SIGINT)
    asking.communicate()


def test_a_job_without_its_driver_still_gets_forks(driver: Path) -> None:
    asking = script("ask", repr(str(driver / "pid")))
    started(driver / "pid")
    assert forkserver._server is not None
    forkserver._server.stdin.close()  # type: ignore[union-attr] - as when the driver is killed
    time.sleep(0.2)
    (driver / "pid.go").touch()
    assert "inner" in asking.communicate(timeout=30)[0]
    assert asking.returncode == 3


def test_no_server_where_its_socket_has_too_long_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    forkserver.start([])
    assert forkserver.ADDRESS not in os.environ
    assert not list(folder.iterdir())


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
    assert forkserver.call("builtins:abs", 1) is None
    monkeypatch.setenv(forkserver.ADDRESS, "/no/such/socket")
    assert forkserver.call("builtins:abs", 1) is None


def test_no_server_where_gpus_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    forkserver.start([])
    assert forkserver.ADDRESS not in os.environ
