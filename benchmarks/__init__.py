"""Speed, as ratios taken in one process: `python -m benchmarks`."""
