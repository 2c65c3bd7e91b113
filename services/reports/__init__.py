"""Reports: what is going on, counted from events."""
