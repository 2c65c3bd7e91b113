"""Wallet: customers' stored money, double entry, and the payments for what was sold."""
