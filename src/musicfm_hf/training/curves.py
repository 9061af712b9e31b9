"""Training curves."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import is_matplotlib_available, logging

from .files import complete_file

logger = logging.get_logger(__name__)

SECONDS_BETWEEN = 30  # so that drawing takes little of a training with many checkpoints


class CurveCallback(TrainerCallback):
    """
    Draws `curves.png` in the output folder at checkpoints, but at most twice a minute, and at the end. It has one
    panel for each group of logged values.

    Args:
        panels: Title → names of values in the log history.
    """

    def __init__(self, panels: Mapping[str, Sequence[str]]):
        self.panels = panels
        self._drawn = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN:
            self._draw(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._draw(args, state)

    def _draw(self, args: TrainingArguments, state: TrainerState) -> None:
        if not state.is_world_process_zero:
            return
        if not is_matplotlib_available():
            logger.warning_once("No `curves.png`, because matplotlib is not installed: `pip install matplotlib`.")
            return
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2 * len(self.panels), 4), layout="constrained")
        FigureCanvasAgg(figure)
        columns = figure.subplots(1, len(self.panels), squeeze=False)[0]
        for axes, (title, names) in zip(columns, self.panels.items(), strict=True):
            for name in names:
                points = [(entry["step"], entry[name]) for entry in state.log_history if name in entry]
                if points:
                    axes.plot(*zip(*points, strict=True), label=name, linewidth=1.2, marker="." * (len(points) < 40))
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
            if axes.lines:
                axes.legend(fontsize=8)
        path = Path(str(args.output_dir)) / "curves.png"
        with complete_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=110)
        self._drawn = time.monotonic()
