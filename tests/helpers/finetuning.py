"""Flags of short runs of fine-tuning, and a callback that interrupts a run."""

from transformers import TrainerCallback

SHORT_RETRIEVAL = ["--crop_seconds", "2", "--per_device_train_batch_size", "4", "--max_steps", "4"]
SHORT_RETRIEVAL += ["--eval_steps", "2", "--save_steps", "2", "--logging_steps", "1", "--warmup_steps", "1"]
SHORT_RETRIEVAL += [
    "--use_cpu",
    "true",
    "--disable_tqdm",
    "true",
    "--dataloader_num_workers",
    "0",
    "--report_to",
    "none",
]
# Heads and matrices that differ after a few steps, and no phase vocoder.
SHORT_RETRIEVAL += ["--learning_rate", "0.01", "--encoder_learning_rate", "0.001", "--lora_r", "4"]
SHORT = [*SHORT_RETRIEVAL, "--per_device_train_batch_size", "2", "--head_size", "16"]
QUICK = ["--transpose", "false", "--tempo", "0", "--probe_steps", "2", "--probe_batch_size", "2"]


class InterruptedRunError(Exception):
    """Ends a run."""


class InterruptAt(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise InterruptedRunError
