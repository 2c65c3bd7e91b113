"""The reports service as a process: `python -m services.reports`."""

from chassis.app import run
from services.reports.service import SERVICE

run(SERVICE)
