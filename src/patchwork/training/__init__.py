"""What trains a task: the Trainer, its callbacks, loggers and checkpoints, optimizers and schedules."""
