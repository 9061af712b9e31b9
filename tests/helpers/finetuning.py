"""Flags of short runs of fine-tuning."""

SHORT = ["--crop_seconds", "2", "--head_size", "16", "--per_device_train_batch_size", "2", "--max_steps", "4"]
SHORT += ["--eval_steps", "2", "--save_steps", "2", "--logging_steps", "1", "--warmup_steps", "1"]
SHORT += ["--use_cpu", "true", "--disable_tqdm", "true", "--dataloader_num_workers", "0", "--report_to", "none"]
# Heads and matrices that differ after a few steps, and no phase vocoder.
SHORT += ["--learning_rate", "0.01", "--encoder_learning_rate", "0.001", "--lora_r", "4"]
QUICK = ["--transpose", "false", "--tempo", "0"]
