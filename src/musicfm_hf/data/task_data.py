"""Labeled data sets of several tasks, as commands take them: some for all tasks, and others for single tasks."""

from collections.abc import Sequence


def data_by_task(words: Sequence[str], tasks: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """
    Parse the words `FOLDER` and `TASK=FOLDER`.

    Returns:
        The data sets for all tasks; and task → data sets, for the tasks that have their own, which replace those for
        all tasks.

    Raises:
        ValueError: A word names a task that is not among `tasks`.
    """
    common: list[str] = []
    of_tasks: dict[str, list[str]] = {}
    for word in words:
        task, equals, folder = word.partition("=")
        if not equals:
            common.append(word)
        elif task in tasks:
            of_tasks.setdefault(task, []).append(folder)
        else:
            raise ValueError(f"`--data {word}` is for none of the tasks {', '.join(tasks)}.")
    return common, of_tasks


def one_data_set(words: Sequence[str], tasks: Sequence[str]) -> tuple[str, dict[str, str]]:
    """
    Parse the words `FOLDER` and `TASK=FOLDER`, if every task has one data set.

    Returns:
        The data set for all tasks, or an empty text; and task → data set, for the tasks that have their own.

    Raises:
        ValueError: A word names a task that is not among `tasks`, or a task has several data sets.
    """
    common, of_tasks = data_by_task(words, tasks)
    for folders in (common, *of_tasks.values()):
        if len(folders) > 1:
            raise ValueError(
                f"`--data` takes one data set for all tasks, got {', '.join(folders)}; write TASK=FOLDER for one task."
            )
    return "".join(common), {task: folder for task, (folder,) in of_tasks.items()}
