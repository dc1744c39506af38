"""What a process settles about itself at its start: its memory, and when it ends."""

import ctypes
import glob
import multiprocessing
import os
import platform
import threading
import time
from multiprocessing.connection import wait

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*")

_PERIOD = 1.0  # seconds between two looks at the parent's number
_ORPHANED = 75  # <sysexits.h> EX_TEMPFAIL


def keep_memory() -> bool:
    """Stop glibc from handing freed memory back to the kernel, on machines that compute on CPU.

    XLA allocates the temporaries of a program as one block at every call. By default glibc maps
    and unmaps it each time, and to fault hundreds of megabytes in again takes 10-15 % of a training
    step. Call this before JAX starts its threads. Nothing happens beside an accelerator, off glibc,
    or where the user has set any MALLOC_ variable.

    Returns:
      Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc" or any(map(glob.glob, _ACCELERATORS)):
        return False
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # One arena: the others cannot grow past 64 MB and would map the rest after all.
    return all(
        mallopt(option, value) == 1
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    )


def end_with_parent() -> None:
    """End this process at once when the one that started it is gone, even by SIGKILL.

    Every worker calls this first. A thread watches the pipe that `multiprocessing` keeps open in
    the parent, which tells of a parent behind a fork server, too; in a process that was started
    otherwise, and as a second sign, it watches the parent's number.

    Not PR_SET_PDEATHSIG: the kernel then sends its signal when the *thread* that started this
    process ends.
    """
    parent, number = multiprocessing.parent_process(), os.getppid()

    def watch() -> None:
        while os.getppid() == number:
            if parent is None:
                time.sleep(_PERIOD)
            elif wait([parent.sentinel], _PERIOD):
                break
        os._exit(_ORPHANED)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
