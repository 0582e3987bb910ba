"""The page to draw on: its text, style and JavaScript modules, which `patchwork.export.lab` makes one file of."""
