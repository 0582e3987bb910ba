"""A model as a service on this machine: the page to draw on, and answers to drawings and pictures."""
