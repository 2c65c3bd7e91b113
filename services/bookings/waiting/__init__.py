"""The waiting list: a freed time is offered to who waits for it, in order, each offer with a clock."""
