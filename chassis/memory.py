"""The garbage collector of a process that serves."""

from __future__ import annotations

import gc

COLLECT_AFTER_OBJECTS = 20_000


def settle() -> None:
    """Call once all is loaded: what is there now lives as long as the process, so the collector need not look again.

    Afterwards it runs less often: a request makes few objects that refer to each other in a circle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 50)
