"""People: single days, leave, who takes over, and qualifications that expire."""
