"""Watches the ranks: if one ends unexpectedly, all end, with one line that names it.

Every rank keeps a TCP connection to a small process beside rank 0, which is this file. The system
closes the connections of a process that is killed or runs out of memory, and finds a machine that is
gone by TCP's keepalive. A rank that fails says so before it ends. MPI itself would wait forever for a
rank that is gone, and a launcher does not say which.
"""

import os
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import Any

_GOODBYE, _END = b"G", b"E"
_KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}  # seconds, and times
_CONNECTING = 30.0  # seconds
_GRACE = 1.0  # rank 0 has three times as long to say itself what is wrong on all ranks
_DRAIN = 0.1  # in which a launcher passes the line on before the ranks end, and it with them
_TOKEN = 16  # bytes, by which a connection is known to be of a rank

# What launchers tell the processes that they start: their number, and how many there are.
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def launched() -> tuple[int, int]:
    """(rank, size) as the launcher says them, before any MPI is loaded; (0, 1) without one."""
    for rank, size in _LAUNCHERS:
        if rank in os.environ and size in os.environ:
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


class Watch:
    """A rank's connection; made by all ranks of an mpi4py communicator at once."""

    def __init__(self, comm: Any):
        self._comm, self._is_first, self._status = comm, comm.rank == 0, 0
        offer = None
        if self._is_first:
            token = secrets.token_bytes(_TOKEN)
            with socket.create_server(("", 0), backlog=comm.size) as server:
                offer = socket.gethostname(), server.getsockname()[1], token
                # A session of its own: a launcher that ends the ranks leaves it time for its line.
                self._process = subprocess.Popen(
                    [sys.executable, "-SE", __file__, str(server.fileno()), str(comm.size)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[server.fileno()],
                    start_new_session=True,
                )
                self._process.stdin.write(token)  # type: ignore[union-attr]
                self._process.stdin.close()  # type: ignore[union-attr]
        host, port, token = comm.bcast(offer)
        here = socket.gethostname()
        self._server = socket.create_connection(
            ("localhost" if host == here else host, port), _CONNECTING
        )
        _keep_alive(self._server)
        self._server.sendall(
            token
            + b"%d rank %d (process %d on %s)" % (comm.rank, comm.rank, os.getpid(), here.encode())
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        """End this rank when the watching process says so."""
        word = b""
        with suppress(OSError):
            word = self._server.recv(2)
        if word[:1] == _END:
            self._end(word[1])

    def _end(self, status: int) -> None:
        """End all ranks by MPI, from rank 0, or else this one."""
        threading.Timer(_GRACE, os._exit, (status,)).start()
        if self._is_first:
            with open(os.devnull, "wb") as nothing:  # for what MPI has to say: all is said
                os.dup2(nothing.fileno(), 2)
            self._comm.Abort(status)

    def _say(self, word: bytes) -> None:
        with suppress(OSError):
            self._server.sendall(word)

    def wait(self) -> None:
        """MPI has failed: most likely another rank is gone, which ends this one too."""
        time.sleep(3 * _GRACE)

    def fail(self, text: str, status: int) -> None:
        """This rank cannot go on. Rank 0 returns, to say why, and ends all when it exits; another
        ends here."""
        self._status = status
        if not self._is_first:
            self._say(_END + bytes([status]) + text.encode()[:4000])
            time.sleep(10 * _GRACE)
            os._exit(status)

    def close(self) -> None:
        """Leave in good order, or, if this is rank 0 and it has failed, end all ranks."""
        if self._status == 0:
            self._say(_GOODBYE)
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        time.sleep(_DRAIN)
        self._say(_END + bytes([self._status]))
        self._end(self._status)


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _serve(server: socket.socket, size: int, token: bytes) -> tuple[str, int, list[socket.socket]]:
    """(what to print, exit status, whom to tell) once all are to end; nobody if all said goodbye."""
    names: dict[socket.socket, tuple[int, str]] = {}
    for _ in range(size):
        connection = server.accept()[0]
        _keep_alive(connection)
        word = connection.recv(4096)
        if secrets.compare_digest(word[:_TOKEN], token):
            number, _, name = word[_TOKEN:].decode("utf-8", "replace").partition(" ")
            names[connection] = int(number), name
    while names:
        for connection in select.select(list(names), [], [])[0]:
            try:
                word = connection.recv(4096)
            except OSError:
                word = b""
            rank, name = names.pop(connection)
            if word == _GOODBYE:
                continue
            if not word:
                return (
                    f"error: {name} ended without a word, killed or out of memory; all ranks end: "
                    "resume from the last checkpoint",
                    1,
                    list(names),
                )
            text = word[2:].decode("utf-8", "replace")
            first = [connection for connection in names if names[connection][0] == 0]
            if rank == 0:
                time.sleep(_GRACE)
            if rank == 0 or select.select(first, [], [], 3 * _GRACE)[0]:
                return "", word[1], list(names)
            text = "interrupted" if word[1] == 130 else f"error: {text}, on {name}; all ranks end"
            return text, word[1], list(names)
    return "", 0, []


def main() -> None:
    """Watch the ranks until all are gone."""
    server = socket.socket(fileno=int(sys.argv[1]))
    text, status, others = _serve(server, int(sys.argv[2]), sys.stdin.buffer.read(_TOKEN))
    if text:
        os.write(2, f"minicnn: {text}\n".encode())
        time.sleep(_DRAIN)
    for connection in others:
        with suppress(OSError):
            connection.sendall(_END + bytes([status]))


if __name__ == "__main__":
    main()
