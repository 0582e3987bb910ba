"""The page of a run: what it is and how good, curves and samples, the figures asked for, and how to repeat it.

Results are saved as `report/<name>.npz` and `report/numbers.json` in the run directory, the page as `report.html`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import NotApplicableError
from patchwork.core.atomic import write_bytes
from patchwork.core.errors import PatchworkError, one_line, warn
from patchwork.core.overrides import shell_command
from patchwork.core.progress import Progress
from patchwork.figures.rendered import Claim, Rendered, html_table
from patchwork.figures.thumbnails import png_uri
from patchwork.report import PAGE_FILE, RESULTS_DIR
from patchwork.report.page import PageSection, page_html
from patchwork.report.published import published_figure
from patchwork.report.sections import SECTIONS, Section
from patchwork.stats.overlap import overlapping_wilson
from patchwork.tasks import Task

SHEETS = {  # pictures that a training has drawn, by their file
    "samples": ("Samples", "The first samples of the test split, with what is predicted beneath; errors are marked."),
    "mistakes": ("The most confident mistakes", "Wrong answers of the test split that the model was surest of."),
}


@dataclass(frozen=True)
class RunDescription:
    """What is said of a run on its page.

    Attributes:
        run_dir: its directory.
        task: name of its task.
        model: name of its model.
        config: resolved configuration.
        config_text: the same as YAML.
        manifest: content of its manifest.
        overrides: what distinguishes it from the default, as overrides.
        extra: further sections, as of an audit.
    """

    run_dir: Path
    task: str
    model: str
    config: Mapping[str, Any]
    config_text: str
    manifest: Mapping[str, Any]
    overrides: Sequence[str] = ()
    extra: Sequence[PageSection] = field(default_factory=tuple)


class Page(NamedTuple):
    """A page that was written: its path, and why figures are left out, by their name."""

    path: Path
    left_out: dict[str, str]


def write_page(run: RunDescription, inputs: AnalysisInputs, chosen: Sequence[Section]) -> Page:
    """Analyze a run, save the results, and write its page.

    Args:
        run: what the run is.
        inputs: its task and its samples.
        chosen: the figures to make.

    Returns:
        The page.

    Raises:
        ResourceError: if a file cannot be written.
    """
    figures = [figure_section(section, run, inputs) for section in chosen]
    sections = [
        overview_section(run, inputs),
        *curves_section(run, inputs.task),
        *sheet_sections(run.run_dir),
        *figures,
        *run.extra,
        configuration_section(run),
        environment_section(run.manifest),
    ]
    title = f"{run.task} · {run.model}"
    path = run.run_dir / PAGE_FILE
    started = run.manifest.get("started")
    subtitle = f"{run.run_dir}, started {started[:16]}" if started else str(run.run_dir)
    write_bytes(path, page_html(title, subtitle, sections))
    return Page(path, {each.name: each.content for each in figures if isinstance(each.content, str)})


def figure_section(section: Section, run: RunDescription, inputs: AnalysisInputs) -> PageSection:
    """Analyze and draw one figure; one that does not apply is a line of text, and so is one that fails, with a warning.

    Raises:
        ResourceError: if its results cannot be written.
    """
    command = shell_command("report", run=str(run.run_dir), figures=section.name)
    analysis = import_module(f"patchwork.analysis.{section.name}")
    drawing = import_module(f"patchwork.figures.{section.name}")
    try:
        with Progress(f"analyzing {section.name}"):
            result = analysis.analyze(inputs)
        result.save(run.run_dir / RESULTS_DIR)
        return PageSection(section.name, section.title, drawing.render(result), command)
    except NotApplicableError as error:
        return PageSection(section.name, section.title, str(error))
    except PatchworkError:
        raise
    except Exception as error:  # a figure that fails, as on a model that nobody has tried, costs no other
        reason = f"{type(error).__name__}: {one_line(error)}"
        warn(f"figure {section.name} failed, and is left out: {reason}")
        return PageSection(section.name, section.title, f"it failed: {reason}")


# --- what is not the result of an analysis --------------------------------------------------------------------------


def overview_section(run: RunDescription, inputs: AnalysisInputs) -> PageSection:
    """Return the section of all test metrics, with the sentences about what was trained and how good it is."""
    manifest = run.manifest
    metrics = {name: value for name, value in manifest.get("metrics", {}).items() if name.startswith("test/")}
    rows = [[name.removeprefix("test/"), f"{value:.4f}"] for name, value in sorted(metrics.items())]
    claims = [Claim(training_sentence(run), (), rank=10), *result_claim(run, inputs)]
    best = manifest.get("best_epoch")
    weights = f"the weights of epoch {best}" if best else "the weights that it ended with"
    caption = f"All metrics of the {num_tested(inputs):,} test {inputs.task.samples_name}, with {weights}."
    if not rows:
        return PageSection("result", "Result", Rendered("<p>It has not been tested.</p>", "", claims=tuple(claims)))
    return PageSection(
        "result", "Result", Rendered(html_table(["metric", "value"], rows), caption, claims=tuple(claims))
    )


def training_sentence(run: RunDescription) -> str:
    """Return what was trained, on what and for how long, as far as its manifest says."""
    manifest = run.manifest
    parameters = f" ({manifest['parameters']:,} parameters)" if "parameters" in manifest else ""
    dataset = f" on {manifest['dataset']}" if "dataset" in manifest else ""
    details = [
        text.format(manifest[name])
        for name, text in (("steps", "{:,} steps"), ("train_seconds", "{:.0f} s"), ("seed", "seed {}"))
        if manifest.get(name) is not None
    ]
    how = f" ({', '.join(details)})" if details else ""
    status = manifest.get("status", "finished")
    ended = "" if status == "finished" else f"; it has not finished (status {status})"
    return f"{run.model}{parameters} was trained for {run.task}{dataset}{how}{ended}."


def result_claim(run: RunDescription, inputs: AnalysisInputs) -> list[Claim]:
    """Return the sentence about the result, its uncertainty, chance, and what was published; none without a result."""
    metrics, task = run.manifest.get("metrics", {}), inputs.task
    if "test/loss" not in metrics:
        return []
    text = task.summary(metrics, num_tested(inputs)).rstrip(".")
    metric = f"test/{task.monitor.removeprefix('val/')}"
    interval = accuracy_interval(inputs, metrics.get(metric))
    if interval is not None:
        text += "; other test samples would move that within {:.2%} to {:.2%} (95 %)".format(*interval)
    published = published_figure(run.task, run.manifest.get("dataset", ""), run.config.get("data", {}))
    if published is not None and published.metric in metrics:
        text += f"; {published.source} published {published.value:.2%}"
    return [Claim(f"{text}.", (metric,), rank=20)] if text else []


def num_tested(inputs: AnalysisInputs) -> int:
    """Return how many samples were tested: those whose predictions are saved, or the whole split."""
    predictions = inputs.predictions.get("test")
    return inputs.num_samples if predictions is None else len(predictions)


def accuracy_interval(inputs: AnalysisInputs, accuracy: float | None) -> tuple[float, float] | None:
    """Return the 95 % interval of the test accuracy over samples that share images; None if it is another metric."""
    predictions = inputs.predictions.get("test")
    correct = None if predictions is None else predictions.correct
    if accuracy is None or predictions is None or correct is None:
        return None
    if abs(float(correct.double().mean()) - accuracy) > 1e-5:
        return None
    return overlapping_wilson(correct.numpy(), predictions.image_ids.numpy())


def curves_section(run: RunDescription, task: Task) -> list[PageSection]:
    """Return the section of losses and metrics during training, if they were logged."""
    path = run.run_dir / "metrics.csv"
    if not path.exists():
        return []
    from patchwork.figures.curves import plot_curves
    from patchwork.figures.svg import figure_svg

    caption = "Training loss (smoothed), learning rate and validation metrics; the best epoch is marked."
    svg = figure_svg(plot_curves(path, monitor=task.monitor, mode=task.mode), "curves", caption)
    return [PageSection("curves", "Training", Rendered(svg, caption))]


def sheet_sections(run_dir: Path) -> list[PageSection]:
    """Return the sections of the pictures that the training has drawn."""
    sections = []
    for name, (title, caption) in SHEETS.items():
        path = run_dir / "figures" / f"{name}.png"
        if path.exists():
            image = f'<img class="sheet" src="{png_uri(path.read_bytes())}" alt="{escape(f"{title}: {caption}")}">'
            sections.append(PageSection(name, title, Rendered(image, caption)))
    return sections


def configuration_section(run: RunDescription) -> PageSection:
    """Return the section of the configuration and the command that makes the run again."""
    differences = " ".join(run.overrides) or "nothing: these are the defaults"
    html = (
        f"<p>Differs from the default of its task: <code>{escape(differences)}</code></p>"
        f"<details><summary>Whole configuration</summary><pre>{escape(run.config_text)}</pre></details>"
    )
    command = str(run.manifest.get("command") or shell_command("train", *run.overrides))
    return PageSection("configuration", "Configuration", Rendered(html, ""), command)


def environment_section(manifest: Mapping[str, Any]) -> PageSection:
    """Return the section of versions, hardware and digests."""
    names = ("started", "commit", "dataset_sha256", "weights_sha256", "wall_clock_seconds", "samples_per_second")
    rows = [[name.replace("_", " "), str(manifest[name])] for name in names if manifest.get(name) is not None]
    for group in ("hardware", "versions"):
        rows += [[f"{group}: {name}", str(value)] for name, value in manifest.get(group, {}).items()]
    return PageSection("environment", "Environment", Rendered(html_table(["", "value"], rows), ""))


def write_short_page(run: RunDescription, inputs: AnalysisInputs) -> None:
    """Write the page that a training ends with; an error of it is a warning, so that it loses no run."""
    try:
        write_page(run, inputs, [section for section in SECTIONS if section.short])
    except Exception as error:  # whatever it is, the run itself is finished
        warn(f"{run.run_dir / PAGE_FILE} was not written: {type(error).__name__}: {error}")
