"""The audit of a trained model as a section of its page."""

from patchwork.analysis.result import NotApplicableError
from patchwork.core.overrides import shell_command
from patchwork.data import BaseDataModule
from patchwork.evaluation.audit.checks import run_checks
from patchwork.evaluation.audit.planted import judge_explanations, tells_the_truth
from patchwork.figures.rendered import Rendered, html_table
from patchwork.report.page import PageSection
from patchwork.tasks import Task

VERDICTS = {True: "pass", False: "FAIL", None: "not applicable"}


def audit_section(run_dir: str, task: Task, data: BaseDataModule) -> PageSection:
    """Check a trained model, and which explanations tell the truth on its architecture."""
    checks = [
        [name, VERDICTS[result.passed], result.measured, result.expected]
        for name, result in run_checks(task, data, trained=True)
    ]
    html = html_table(["check", "", "measured", "expected"], checks)
    try:
        found = judge_explanations(task, data)
    except NotApplicableError as error:
        caption = f"Which explanations tell the truth on this architecture was not tried: {error}."
    else:
        rows = [
            [name, "finds it" if tells_the_truth(hits, total) else "does not", f"{hits} of {total}"]
            for name, (hits, total) in found.items()
        ]
        html += html_table(["explanation", "", "answers in which it points to the planted place"], rows)
        caption = (
            "Properties that the model claims, and which explanations find an answer that was planted in a known "
            "place: this architecture was trained anew, on images of the data set with random answers that are written "
            "into them as marks."
        )
    return PageSection("audit", "Audit", Rendered(html, caption), shell_command("audit", run=run_dir))
