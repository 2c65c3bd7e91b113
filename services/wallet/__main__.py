"""Runs the wallet service: `python -m services.wallet`."""

from chassis.app import run
from services.wallet.service import SERVICE

run(SERVICE)
