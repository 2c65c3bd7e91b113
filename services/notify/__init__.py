"""Notify: what customers are told, where, when, and how it went."""
