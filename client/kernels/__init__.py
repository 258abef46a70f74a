"""The hospital's answers to queries: pure functions from complete rows to integers that are only ever summed."""
