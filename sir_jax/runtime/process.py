"""glibc's allocator, told to keep the memory that JAX asks for again at every step on CPU."""

import ctypes
import glob
import os
import platform

# <malloc.h>
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ACCELERATORS = ("/dev/nvidia[0-9]*", "/dev/accel*", "/dev/vfio/[0-9]*")


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
