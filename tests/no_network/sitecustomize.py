"""No way out to a network, for every Python process below one that has this folder in PYTHONPATH.

Python imports a module of this name at its start, so the block reaches kernels and the workers that they start. What
was tried is written to the file that BLOCKED_LOG names. ZeroMQ's own sockets, through which kernels are spoken to, do
not pass through it and stay on this machine.
"""

import os
import socket

LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


def _check(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host and not str(host).startswith(LOCAL) and host != socket.gethostname():
        with open(os.environ["BLOCKED_LOG"], "a") as log:
            log.write(f"{host}\n")
        raise OSError(f"the test allows no connection to {host}")


def _guard(name):
    plain = getattr(socket.socket, name)

    def guarded(self, *arguments):
        address = arguments[-1]
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple):
            _check(address[0])
        return plain(self, *arguments)

    setattr(socket.socket, name, guarded)


for name in ("connect", "connect_ex", "sendto"):
    _guard(name)
_resolve = socket.getaddrinfo


def _getaddrinfo(host, *arguments, **options):
    _check(host)
    return _resolve(host, *arguments, **options)


socket.getaddrinfo = _getaddrinfo
