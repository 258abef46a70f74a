"""The coordinator: sees sums."""
