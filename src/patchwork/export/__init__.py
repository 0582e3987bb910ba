"""A trained model on its way out of the lab: as a folder of weights."""
