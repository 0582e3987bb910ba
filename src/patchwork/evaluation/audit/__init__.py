"""Checks that a model has the properties it claims: invariances, sensitivities, and the ability to learn."""
