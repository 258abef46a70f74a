"""Drills: a federation of real processes in network namespaces, and what goes wrong with its links and processes."""
