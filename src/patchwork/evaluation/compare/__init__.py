"""Compare finished runs: settings with all their seeds, over independent digits, with verdicts that can be no."""
