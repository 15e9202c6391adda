"""The network to evaluate, as somebody names it: a spec, or the folder of a run."""

from pathlib import Path

from trainer.loop.run_folder import student_in


def named_model(text: str) -> str:
    """Return the spec of a network; of the folder of a run, the file of its student.

    Raises InputError for another folder.
    """
    return str(student_in(Path(text))) if Path(text).is_dir() else text
