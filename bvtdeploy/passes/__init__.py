"""Graph rewrites: one file a pass, ordered in `pipeline`."""
