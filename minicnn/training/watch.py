"""Ranks that watch each other: one that ends without a word ends all, with one line that says which.

Every rank keeps a TCP connection to rank 0. The system closes those of a process that is killed or
runs out of memory, and finds a machine that is gone by TCP's keepalive. A rank that fails says so
before it ends, and rank 0 prints it; MPI itself would wait forever for a rank that is gone.
"""

import os
import secrets
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

_GOODBYE, _END = b"G", b"E"
_KEEPALIVE = {"TCP_KEEPIDLE": 3, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}  # seconds, and times
_CONNECTING = 30.0  # seconds
_DIED = (
    "ended without a word, killed or out of memory; all ranks end: resume from the last checkpoint"
)


class Watch:
    """The connections of an mpi4py communicator; made by all its ranks at once."""

    def __init__(self, comm: Any):
        self.rank, self.status = comm.rank, 0
        self.names = comm.gather(f"process {os.getpid()} on {socket.gethostname()}")
        self._closing = False  # this process is about to end by itself
        self._peers: dict[int, socket.socket] = {}
        with socket.socket() as listener:
            listener.settimeout(_CONNECTING)
            if self.rank == 0:
                listener.bind(("", 0))
                listener.listen(comm.size)
            offer = socket.gethostname(), listener.getsockname()[1], secrets.token_bytes(16)
            host, port, token = comm.bcast(offer if self.rank == 0 else None)
            if self.rank > 0:
                near = host == socket.gethostname()
                peer = socket.create_connection(("localhost" if near else host, port), _CONNECTING)
                peer.sendall(token + self.rank.to_bytes(4))
                self._peers[0] = peer
            while len(self._peers) < comm.size - 1 and self.rank == 0:
                peer = listener.accept()[0]
                peer.settimeout(_CONNECTING)
                word = peer.recv(20, socket.MSG_WAITALL)
                if word[:16] == token:
                    self._peers[int.from_bytes(word[16:])] = peer
        for rank, peer in self._peers.items():
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE.items():
                if hasattr(socket, name):
                    peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            threading.Thread(target=self._listen, args=(rank, peer), daemon=True).start()

    def _listen(self, rank: int, peer: socket.socket) -> None:
        """Wait for what rank ``rank`` says: goodbye, an error, to end, or nothing at its death."""
        try:
            word = peer.recv(4096)
        except OSError:
            word = b""
        if word == _GOODBYE or (self.rank == 0 and self._closing):
            return
        if self.rank == 0 and word:
            time.sleep(1)  # what is wrong on all ranks rank 0 says itself
            if not self._closing:
                text = word[2:].decode("utf-8", "replace")
                self._end_all(
                    f"{text} (on rank {rank}, {self.names[rank]}); all ranks end", word[1]
                )
        elif self.rank == 0:
            self._end_all(f"rank {rank} ({self.names[rank]}) {_DIED}", 1)
        elif word:
            os._exit(word[1])
        else:
            if self.rank == 1:
                self._print(f"rank 0 {_DIED}")
            time.sleep(1)
            os._exit(1)

    def _end_all(self, text: str, status: int) -> None:
        self._print(text)
        self._say(_END + bytes([status]))
        os._exit(status)

    @staticmethod
    def _print(text: str) -> None:
        with suppress(OSError):
            os.write(2, f"minicnn: error: {text}\n".encode())

    def _say(self, word: bytes) -> None:
        for peer in self._peers.values():
            with suppress(OSError):
                peer.sendall(word)

    def fail(self, text: str, status: int) -> None:
        """This rank cannot go on. Rank 0 returns, to say why, and ends all when it exits; another
        ends here."""
        self._closing, self.status = True, status
        if self.rank > 0:
            self._say(_END + bytes([status]) + text.encode()[:4000])
            time.sleep(5)
            os._exit(status)

    def close(self) -> None:
        """Say goodbye, or end all ranks if this one, rank 0, has failed."""
        self._closing = True
        if self.status == 0:
            self._say(_GOODBYE)
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        self._say(_END + bytes([self.status]))
        os._exit(self.status)
