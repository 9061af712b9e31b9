"""Labeled data sets of several tasks, as commands take them: one for all tasks, and others for single tasks."""

from collections.abc import Sequence


def data_by_task(words: Sequence[str], tasks: Sequence[str]) -> tuple[str, dict[str, str]]:
    """
    Parse the words `FOLDER` and `TASK=FOLDER`.

    Returns:
        The data set for all tasks, or an empty text; and task → data set, for the tasks that have their own.

    Raises:
        ValueError: A word names a task that is not among `tasks`, or several data sets are for all tasks.
    """
    of_tasks: dict[str, str] = {}
    common = []
    for word in words:
        task, equals, folder = word.partition("=")
        if not equals:
            common.append(word)
        elif task in tasks:
            of_tasks[task] = folder
        else:
            raise ValueError(f"`--data {word}` is for none of the tasks {', '.join(tasks)}.")
    if len(common) > 1:
        raise ValueError(f"`--data` takes one data set for all tasks, got {', '.join(common)}; write TASK=FOLDER.")
    return (common[0] if common else ""), of_tasks
