"""Attacks that try to break what a ledger claims: tests of drawn noise and samples, and an audit by canaries in one run."""
