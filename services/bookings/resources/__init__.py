"""Rooms and things: what they are, when they are out of service, what is lent, and stock that is used up."""
