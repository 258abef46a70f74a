"""Sums to results, one analysis a file."""
