"""Every error mtrec-edge raises on purpose.

    MtrecError                      catch this one
    |-- InputError                  what the caller passed cannot be used (unknown id or task, empty history, NaN ...)
    |-- BundleError                 the bundle cannot be read (missing file, wrong size or hash, newer format)
    |-- DataError                   a dataset or a source file breaks the data contract (names file, column, row)
    |-- RecipeError                 a recipe has an unknown key or an impossible value
    `-- StageError                  a stage of the pipeline could not finish or did not meet its limits
        `-- DivergedError           a loss in training is no number any more

A message gives what was asked, what was found, and the next step.
"""


class MtrecError(Exception):
    """Base of every error mtrec-edge raises on purpose."""


class InputError(MtrecError, ValueError):
    """An argument cannot be used as given."""


class BundleError(MtrecError):
    """A bundle is missing, damaged, altered or too new."""


class DataError(MtrecError, ValueError):
    """A dataset or a source file breaks the data contract."""


class RecipeError(MtrecError, ValueError):
    """A recipe has an unknown key or an impossible value."""


class StageError(MtrecError):
    """A stage of the pipeline could not finish or did not meet its limits."""


class DivergedError(StageError):
    """A loss in training is no number any more."""
