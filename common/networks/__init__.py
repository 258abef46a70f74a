"""The networks that a study may name, and the layers that they share."""
