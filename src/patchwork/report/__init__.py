"""The page of a run: `report.html`, one file that needs no network, and the results that it draws."""

PAGE_FILE, RESULTS_DIR = "report.html", "report"  # in the run directory
