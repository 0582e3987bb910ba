"""Measuring trained models: test metrics, ensembles, the scorecard of generators, and checks of what models claim."""
