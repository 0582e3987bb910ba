"""What to use here instead of arguments that other tools have, by the key that is typed."""

TRAINER_REPLACEMENTS = {  # the arguments of Lightning's Trainer that no configuration sets
    "barebones": "use callbacks=none logger=none",
    "callbacks": "use callbacks.NAME=…; callbacks.NAME=null leaves one out, callbacks=none all",
    "default_root_dir": "use run_dir=…",
    "enable_autolog_hparams": "config.yaml in the run directory always has the hyperparameters",
    "enable_checkpointing": "the best and the last checkpoint are always saved; use checkpoint_every_seconds=…",
    "enable_model_summary": "manifest.json has the number of parameters, and no summary is printed",
    "enable_progress_bar": "use callbacks.progress=null for no progress bar",
    "inference_mode": "validation and test always run without gradients",
    "limit_predict_batches": "use trainer.limit_test_batches=…; patchwork predict predicts whole splits",
    "logger": "use logger=csv, tensorboard, wandb, or none",
    "model_registry": "models are kept in run directories; use run_dir=…",
    "num_sanity_val_steps": "use trainer.fast_dev_run=true, which tries training, validation, and test in seconds",
    "plugins": "use trainer.precision=… and accelerator=…",
    "reload_dataloaders_every_n_epochs": "samples are new in every epoch, see data.resample_each_epoch",
    "sync_batchnorm": "batch normalization sees the samples of its process alone; use a model without it, such as vit",
    "use_distributed_sampler": "every batch is always shared by all processes",
}
CHECKPOINT_KEYS = (  # names that other tools have for a checkpoint to begin with
    "checkpoint",
    "checkpoint_path",
    "ckpt",
    "ckpt_path",
    "finetune_from",
    "init_checkpoint",
    "load_checkpoint",
    "load_from",
    "load_weights",
    "model_checkpoint",
    "pretrained",
    "pretrained_weights",
    "resume_from",
    "resume_from_checkpoint",
    "warm_start",
    "weights",
)
CHECKPOINT_REPLACEMENT = "use resume=PATH to continue its run, or init_from=PATH to begin a new run with its weights"
PRECISION_REPLACEMENT = "use trainer.precision=16-mixed or bf16-mixed"
EARLY_STOPPING_REPLACEMENT = (
    "there is no early stopping, as the learning rate falls until the last epoch, and the best checkpoint by "
    "task.monitor is kept: use trainer.max_epochs=… or trainer.max_time=…"
)
TEMPLATE_REPLACEMENTS = {  # keys of widespread templates for Lightning and Hydra, and all below them
    "callbacks.early_stopping": EARLY_STOPPING_REPLACEMENT,
    "callbacks.learning_rate_monitor": "the learning rate is logged already",
    "callbacks.lr_monitor": "the learning rate is logged already",
    "callbacks.model_checkpoint": (
        "the best checkpoint by task.monitor and the last are always kept: use task.monitor=val/NAME, with a metric of "
        "the task as metrics.csv has it, and checkpoint_every_seconds=…"
    ),
    "callbacks.model_summary": "manifest.json has the number of parameters, and no summary is printed",
    "callbacks.rich_progress_bar": "use callbacks.progress=null for no progress bar",
    "callbacks.tqdm_progress_bar": "use callbacks.progress=null for no progress bar",
    "logger.csv": "logger.metrics writes metrics.csv, and has no keys",
    "early_stopping": EARLY_STOPPING_REPLACEMENT,
    "patience": EARLY_STOPPING_REPLACEMENT,
    "hparams_search": "patchwork sweep searches for hyperparameters; patchwork sweep --help describes it",
    "optimized_metric": "metric.name in a sweep's file is what patchwork sweep optimizes",
    "paths": "use run_dir=… for what a run writes, and dataset.root=… for the data",
    "tags": "use logger.wandb.tags=[…] with logger=wandb, or run_dir=… to name a run",
    "test": "a run is tested when it is trained; trainer.limit_test_batches=0 leaves that out",
    "train": "patchwork train always trains; patchwork evaluate run=RUN_DIR evaluates a run",
}
REPLACEMENTS = {
    **TEMPLATE_REPLACEMENTS,
    **{f"{parent}{name}": PRECISION_REPLACEMENT for name in ("amp", "fp16", "bf16") for parent in ("", "trainer.")},
    **{f"trainer.{name}": text for name, text in TRAINER_REPLACEMENTS.items()},
    **{f"{parent}{name}": CHECKPOINT_REPLACEMENT for name in CHECKPOINT_KEYS for parent in ("", "trainer.", "model.")},
}
SWEEP_REPLACEMENTS = {  # what other tools call the keys of a search, and where they are here
    "study_name": "sweep_dir=… or storage=… keeps a study, and its name follows from the file and the overrides",
    "load_if_exists": "a sweep is resumed by sweep_dir=…, or by storage=…",
    "direction": "metric.goal in the sweep's file is maximize or minimize",
    "metric": "metric.name in the sweep's file is what is optimized",
    "method": "method in the sweep's file is bayes, random or grid",
    "sampler": "method in the sweep's file is bayes (TPE), random or grid",
    "pruner": "early_terminate in the sweep's file prunes by Hyperband",
    "timeout": "n_trials=… limits a search; one that was stopped is resumed by sweep_dir=…",
    "count": "use n_trials=…",
    "trials": "use n_trials=…",
    "max_trials": "use n_trials=…",
    "jobs": "use n_jobs=…",
    "plan": "use dry_run=true",
}


def find_replacement(path: str) -> str | None:
    """Return what to use instead of a key: of itself, or of the first of the keys above it that has a replacement."""
    names = path.split(".")
    paths = (".".join(names[:depth]) for depth in range(len(names), 0, -1))
    return next((REPLACEMENTS[each] for each in paths if each in REPLACEMENTS), None)
