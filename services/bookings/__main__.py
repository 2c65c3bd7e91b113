"""The bookings service as a process: `python -m services.bookings`."""

from chassis.app import run
from services.bookings.service import SERVICE

if __name__ == "__main__":
    run(SERVICE)
