"""From a command line to runs: composing, sweeps, launchers. Hydra is imported here alone."""
