"""A student in training: what its phases share. Each phase brings its settings and its folder."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from mtrec_edge_compress.batches import BatchSource
from mtrec_edge_compress.collaboration import Collaboration
from mtrec_edge_compress.cross_pairs import CrossTaught
from mtrec_edge_compress.data.arrays import Arrays, IntArray
from mtrec_edge_compress.device import Device, open_device
from mtrec_edge_compress.fake_quantize import rounded_words
from mtrec_edge_compress.lookup_tables import WordBits
from mtrec_edge_compress.recipe import Recipe
from mtrec_edge_compress.student_learner import StudentLearner, compact_backbone
from mtrec_edge_compress.training import Validate, fit
from mtrec_edge_compress.training_settings import Training
from mtrec_edge_compress.unread import unread_items


@dataclass(frozen=True)
class StudentTraining:
    """A student, what it learns from, and where it is trained."""

    recipe: Recipe
    learner: StudentLearner
    arrays: Arrays
    collaboration: Collaboration
    device: Device
    progress: bool

    @cached_property
    def unread(self) -> IntArray:
        """Return the items whose texts it does not read, (rows,)."""
        return unread_items(self.arrays, self.recipe)

    def batches(
        self, settings: Training, *, with_pairs: bool, number: int = 0, text_passes: float = 1.0
    ) -> BatchSource:
        """Return what phase `number` learns from: every readable text, and pairs too where asked for.

        `text_passes` says how much of the texts an epoch without pairs reads.
        """
        return CrossTaught(
            self.arrays,
            self.learner.tokens,
            self.collaboration,
            settings,
            self.recipe.model.max_history,
            self.recipe.seed + number,
            with_pairs,
            every_text=True,
            text_passes=text_passes,
            unread=self.unread,
            scored=self.learner.soft.cross,
        )

    def fit(
        self,
        settings: Training,
        *,
        with_pairs: bool,
        folder: Path,
        label: str,
        number: int = 0,
        text_passes: float = 1.0,
        validate: Validate | None = None,
        word_bits: WordBits = 8,
    ) -> dict[str, float]:
        """Train in place and return the best epoch's validation metrics; the rest is as in `training.fit`.

        With words of less than 8 bits they are rounded at every step, and in the end, as they will be stored.
        """
        with rounded_words(compact_backbone(self.learner), word_bits):
            return fit(
                self.learner,
                self.batches(settings, with_pairs=with_pairs, number=number, text_passes=text_passes),
                of_student(settings, self.device),
                folder=folder,
                validate=validate,
                device=self.device,
                label=label,
                progress=self.progress,
            )


def of_student(settings: Training, device: Device) -> Training:
    """Return the settings with what `auto` means for a student: on a CPU its products are too small for bf16."""
    on_cpu = open_device(device).type == "cpu"
    return replace(settings, precision="fp32") if on_cpu and settings.precision == "auto" else settings
