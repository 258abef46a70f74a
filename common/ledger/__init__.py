"""What a ledger entry is, how entries hash together, and what they cost."""
