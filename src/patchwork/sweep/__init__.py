"""Hyperparameter search with Optuna, over the space of a W&B sweep file, without a server."""
