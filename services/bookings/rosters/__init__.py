"""Rosters: who works when, proposed by a solver, corrected by hand, published and swapped.

Nothing here may import the solver's library but `solver.py`, which is run as a process of its own.
"""
