"""Access: chains, branches, accounts, roles, sign-in and API keys."""
