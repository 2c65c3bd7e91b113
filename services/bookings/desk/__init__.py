"""The day at a branch: walk-ins, check-in, what goes on now, day sheets, and the clocks for who is late."""
