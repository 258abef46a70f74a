"""What may cross the wall, and the pure maths both sides share; no IO."""
