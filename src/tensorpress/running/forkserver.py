"""Jobs as forks of one process that has imported torch and transformers.

To start Python with both takes seconds of a core, more than most jobs of a small model work. So the
driver starts a server beside itself; a script hands it what is to be done, together with its own
standard streams, folder, environment and process group, and waits for the exit status. The fork is
the job: it has its own memory, record and log, and dies with its script or with the server.

Only where a fork is safe: on Linux, and not where GPUs are visible (CUDA does not survive one).
There, on clusters, and where no server answers, a script does its work itself. Torch-free.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

UNKEYED = "a job computes the same in whatever process it runs"

ADDRESS = "TENSORPRESS_FORKSERVER"
"""Environment variable by which a driver tells its jobs where the server listens."""
ENVIRONMENT = {
    # threads that spin long starve each other where processes share the cores; those that never
    # spin are slow to wake
    "GOMP_SPINCOUNT": "5000",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # the C library gives large tensors back at once and asks for the next ones anew, whose pages
    # must then be cleared: a sixth of a training's time
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""What libraries read when they are imported; what is set already stays."""

_LENGTH = struct.Struct("!Q")
_STATUS = struct.Struct("!i")
_BEGUN = b"+"
"""What a fork says once it is in the process group of its script, and gets the signals of that."""
_PATIENCE = 60
"""Seconds in which a script must have sent its request."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Request:
    """A call, and the surroundings of the script that asks for it."""

    work: str
    argument: Any
    folder: str
    environment: Mapping[str, str]
    group: int


def start(modules: Sequence[str]) -> None:
    """Start a server for the jobs of this process, whose end ends it too.

    None where no socket can be made (the folder for temporary files has too long a name, say).
    ``modules``: imported when the first job comes; one that cannot be is left to the job.
    """
    from tensorpress.running.slots import visible_ids  # scripts do without

    if sys.platform != "linux" or visible_ids() or ADDRESS in os.environ:
        return
    global _server  # its standard input is how the server knows that this process lives
    folder = Path(tempfile.mkdtemp(prefix="tensorpress-"))
    address = str(folder / "jobs")
    with socket.socket(socket.AF_UNIX) as listener:  # here, so that no job comes too early
        try:
            listener.bind(address)
        except OSError:
            folder.rmdir()
            return
        listener.listen(128)
        _server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            env={**ENVIRONMENT, **os.environ},
            pass_fds=[listener.fileno()],
            process_group=0,  # a Ctrl-C is for the jobs
        )
    os.environ[ADDRESS] = address


_server: subprocess.Popen[bytes] | None = None


def function(name: str) -> Callable[..., Any]:
    """A function by its name, ``module:function``: only who calls it imports what it needs."""
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found


def call(work: str, argument: Any) -> int | None:
    """Status of ``work(argument)`` in a fork of the server; ``None`` if no server answers.

    ``work``: name of a ``function``.
    """
    if ADDRESS not in os.environ:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        request = _Request(work, argument, os.getcwd(), dict(os.environ), os.getpgrp())
        text = pickle.dumps(request)
        try:
            connection.connect(os.environ[ADDRESS])
            socket.send_fds(connection, [_LENGTH.pack(len(text))], [0, 1, 2])
            connection.sendall(text)
        except OSError:
            return None  # a request that is cut short makes no fork
        return _status(connection)


def run(work: str, argument: Any) -> NoReturn:
    """End this process with ``work(argument)``, in a fork of the server if one answers."""
    status = call(work, argument)
    sys.exit(function(work)(argument) if status is None else status)


def die_with_parent() -> None:
    """Be killed when the process ends that started this one, where the system can do so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _status(connection: socket.socket) -> int:
    answer = b""
    while len(answer.removeprefix(_BEGUN)) < _STATUS.size:
        try:
            more = connection.recv(_STATUS.size)
        except KeyboardInterrupt:
            if not answer:
                raise  # nothing has begun, and nothing will without this process
            continue  # the fork is in the same process group, has got it too, and tidies up
        except ConnectionError:
            more = b""
        if not more:
            print("tensorpress: the process that runs jobs is gone", file=sys.stderr)
            return 1
        answer += more
    return int(_STATUS.unpack(answer.removeprefix(_BEGUN))[0])


class _Server:
    """Forks a process for every request, and tells its script how it ended."""

    def __init__(self, listener: socket.socket, modules: Sequence[str]) -> None:
        self._listener, self._modules = listener, list(modules)
        self._selector = selectors.DefaultSelector()
        self._jobs = 0
        self._ends = False
        self._watch(listener, self._accept)
        self._watch(sys.stdin, self._stop)

    def serve(self) -> None:
        """Until the driver is gone and the last job has ended."""
        while self._jobs or not self._ends:
            for key, _ in self._selector.select():
                # one that came with it may have ended it: a script and its fork die together
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _watch(self, what: Any, then: Callable[[], None]) -> None:
        self._selector.register(what, selectors.EVENT_READ, then)

    def _stop(self) -> None:
        self._selector.unregister(sys.stdin)
        self._ends = True  # but jobs that are at work may ask for forks of their own

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._import()
        sys.stdout.flush()
        try:
            with _received(connection) as (text, streams):
                pid = os.fork()
                if not pid:
                    self._selector.close()
                    self._listener.close()
                    _become_job(text, streams, connection)
        except OSError as error:  # the script's end or this machine's limit, and no other job's
            print(f"tensorpress: no process for a job: {error}", file=sys.stderr)
            connection.close()
            return
        self._jobs += 1
        process = os.pidfd_open(pid)

        def ended() -> None:
            self._selector.unregister(process)
            os.close(process)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            with suppress(KeyError):
                self._selector.unregister(connection)
            with connection, suppress(OSError):
                connection.sendall(_STATUS.pack(status if status >= 0 else 128 - status))
            self._jobs -= 1

        def abandoned() -> None:
            # a script says nothing after its request: it is gone
            self._selector.unregister(connection)
            signal.pidfd_send_signal(process, signal.SIGKILL)

        self._watch(process, ended)
        self._watch(connection, abandoned)

    def _import(self) -> None:
        if not self._modules:
            return
        for name in self._modules:
            with suppress(Exception):
                import_module(name)
        self._modules = []
        gc.collect()
        gc.freeze()  # so that forks share these pages


@contextmanager
def _received(connection: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    """A request and, until the block ends, its script's streams; ``OSError`` if it is cut short."""
    connection.settimeout(_PATIENCE)
    head, streams, _, _ = socket.recv_fds(connection, _LENGTH.size, 3)
    try:
        with connection.makefile("rb") as file:
            length = _LENGTH.unpack(head)[0] if head else 1
            text = file.read(length)
        if len(text) < length:
            raise ConnectionError("its request is cut short")
        connection.settimeout(None)
        yield text, streams
    finally:
        for stream in streams:
            os.close(stream)


def _become_job(text: bytes, streams: Sequence[int], connection: socket.socket) -> None:
    """Do what a request asks for in the place of its script; does not return."""
    status = 1
    try:
        die_with_parent()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request: _Request = pickle.loads(text)
        with connection, suppress(PermissionError):  # a script of another session
            os.setpgid(0, request.group)
            connection.sendall(_BEGUN)
        os.chdir(request.folder)
        os.environ.clear()
        os.environ.update(request.environment)
        status = function(request.work)(request.argument)
    except BaseException:
        traceback.print_exc()
    finally:
        # nothing of the server's is to be tidied up here, whatever happens
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def main(listener: int, *modules: str) -> None:
    """Serve those who connect to a socket that this process inherits."""
    with socket.socket(fileno=listener) as inherited:
        address = inherited.getsockname()
        try:
            _Server(inherited, modules).serve()
        finally:
            shutil.rmtree(Path(address).parent, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
    os._exit(0)  # to free what was imported takes long, and libraries complain of what stays
