"""The networks that stand beside the one that is trained, and stay as they are: VGG-19, or a segmenter."""

from crn_jax.errors import UserError
from crn_jax.experiment import AnyExperiment, SegmenterExperiment
from crn_jax.run import Run, load_run
from crn_jax.train import Trainable


def objective_and_frozen(experiment: AnyExperiment, steps_per_epoch: int, vgg_params: dict) -> tuple[Trainable, dict]:
    """Returns the static part of the training step, and the frozen parameters that the step is given.

    Args:
      experiment: what is trained.
      steps_per_epoch: steps in one pass over the training data.
      vgg_params: the parameters of the VGG-19 that the experiment's `vgg` asks for.

    Raises:
      UserError: if the experiment's segmenter is for other classes or another size.
    """
    if experiment.segmenter_run is None:
        return experiment.objective(steps_per_epoch), experiment.frozen(vgg_params)
    run = load_segmenter(experiment.segmenter_run, experiment)
    return experiment.objective(steps_per_epoch, run.experiment.segmenter), experiment.frozen(vgg_params, run.params)


def load_segmenter(folder: str, experiment: AnyExperiment) -> Run:
    """Loads the segmenter of a run folder, which has to be for the experiment's classes and size.

    Raises:
      UserError: if it is for others.
    """
    run = load_run(folder, "best", kind=SegmenterExperiment)
    wanted, found = (experiment.size, experiment.num_classes), (run.experiment.size, run.label_space.num_classes)
    if wanted != found:
        raise UserError(
            f"--segmenter {folder} is for {found[0][0]}x{found[0][1]} and {found[1]} classes; images are "
            f"{wanted[0][0]}x{wanted[0][1]}, of {wanted[1]} classes."
        )
    return run
