"""What developers and operators run: set-up, code from the contract, the local supervisor, demo data."""
