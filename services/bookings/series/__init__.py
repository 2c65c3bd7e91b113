"""Series: bookings that come again and again by a rule."""
