"""The customers service as a process."""

from chassis.app import run
from services.customers.service import SERVICE

if __name__ == "__main__":
    run(SERVICE)
