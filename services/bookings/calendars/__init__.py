"""Calendars that other programs subscribe to: who may read which bookings, and the bookings as iCalendar."""
