"""Who does it: whose turn it is, who claims it, and more time with the same person."""
