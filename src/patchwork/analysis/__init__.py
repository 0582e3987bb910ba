"""What a trained model does, as numbers: one module a question, with a frozen result and the function that computes it.

A result holds arrays, numbers and text, and is saved before anything is drawn; `patchwork.figures` draws results and
reads nothing else.
"""
