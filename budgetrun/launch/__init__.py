"""From a command line to runs: composing, sweeps, launchers. Apart from `__main__`, only this package imports Hydra."""
