"""`accelerate launch` with the files of `recipes/accelerate`, up to where it would start processes."""

from types import SimpleNamespace

from accelerate.commands import launch

from .paths import ROOT


def launched(monkeypatch, name: str, *flags: str) -> tuple[str, dict[str, str], SimpleNamespace]:
    """Return the launcher that a file leads to, the environment variables that it sets, and its arguments."""
    started = []
    for launcher in ("simple_launcher", "multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(launch, launcher, lambda args, launcher=launcher: started.append((launcher, args)))
    parser = launch.launch_command_parser()
    file = str(ROOT / f"recipes/accelerate/{name}.yaml")
    launch.launch_command(parser.parse_args(["--config_file", file, *flags, "pretrain.py"]))
    ((launcher, args),) = started
    if launcher == "deepspeed_launcher":
        return launcher, launch.prepare_deepspeed_cmd_env(args)[1], args
    return launcher, launch.prepare_multi_gpu_env(args), args
