"""Loss to parameters."""
