"""Measurements, and the figures that are published of them."""
