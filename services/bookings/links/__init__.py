"""Links by which customers look after a booking themselves."""
