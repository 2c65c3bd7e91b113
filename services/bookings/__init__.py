"""Bookings: the catalogue, the people who work, and their time."""
