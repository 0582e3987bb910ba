"""The commands of `patchwork`, one module each, with a function `command(args)` that returns the exit code."""

COMMANDS = {
    "train": "train a task, or resume a run",
    "evaluate": "measure a run, or several as an ensemble, on the test split",
    "audit": "check that a model does what it claims",
    "generate": "generate images with a trained model",
    "predict": "read digits in pictures, or write the predictions of a run as a table",
    "report": "write the page of a run: figures of what it does and why",
    "export": "write a model as a page to draw on, or as a folder of weights",
    "serve": "serve a model over HTTP: the page to draw on, and answers to drawings and pictures",
    "compare": "compare finished runs over their seeds and test digits",
    "runs": "list runs, newest first",
    "sweep": "search for hyperparameters",
    "convert": "convert MNIST from other forms to the files that are read here",
    "icons": "write the icon data set as PNG files",
    "explain": "say what a key, a group or a choice is",
}
NO_KEYWORDS = ("train", "audit", "explain")  # whose arguments are overrides or words
FUNCTIONS = {name: name for name in COMMANDS if name not in NO_KEYWORDS} | {"icons": "write_icons"}  # of the others
