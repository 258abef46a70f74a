"""What the secure sum is made of."""
