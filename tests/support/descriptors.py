"""A process without free file descriptors."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LIMIT = 256


@contextmanager
def no_free_descriptors() -> Iterator[Callable[[], None]]:
    """Use all file descriptors of this process while the context lasts; yield a function that frees them before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, _LIMIT), hard))
    held: list[int] = []

    def free() -> None:
        while held:
            os.close(held.pop())

    try:
        while len(held) < _LIMIT:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield free
    finally:
        free()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
