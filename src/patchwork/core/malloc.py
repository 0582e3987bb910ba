"""The C library of this process, and its memory allocator."""

import ctypes
import sys


def load_libc() -> ctypes.CDLL | None:
    """Return the C library; None where it cannot be had by that way, as on Windows."""
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):
        return None


def tune_malloc() -> None:
    """Let glibc keep freed memory for the next step: returning and requesting it again costs a step 10 to 20 %."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = load_libc() if sys.platform == "linux" else None
    if libc is not None and hasattr(libc, "mallopt"):
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)
