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
REPLACEMENTS = {
    **{f"trainer.{name}": text for name, text in TRAINER_REPLACEMENTS.items()},
    **{f"{parent}{name}": CHECKPOINT_REPLACEMENT for name in CHECKPOINT_KEYS for parent in ("", "trainer.", "model.")},
}
