"""Per-patient clipped gradient sums in one ordinary backward: book-keeping, exact, without noise, sampling or accounting."""
