"""The notify service as a process: `python -m services.notify`."""

from chassis.app import run
from services.notify.service import SERVICE

run(SERVICE)
