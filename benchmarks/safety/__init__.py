"""What must hold whatever happens to a run: kills. Run as ``python -m benchmarks.safety.<name>``."""
