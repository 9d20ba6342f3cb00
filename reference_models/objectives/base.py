"""What the training loop asks of an objective."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..networks import Critic


class Loss(NamedTuple):
    """A loss to minimise, and numbers worth a curve.

    Attributes:
        value: Scalar with its graph.
        logs: Scalars without one, by name.
    """

    value: Tensor
    logs: dict[str, Tensor]


class Objective:
    """A pair of losses, as a frozen dataclass whose fields are its options.

    An objective holds no tensors: what is trained beside the generator lies in the module that
    `networks` makes, and the loop hands it back. Losses are minimised. In `critic_loss` the fake
    samples carry no graph; in `generator_loss` the networks require no gradient, so that gradients
    flow through them to the fake samples only.

    Attributes:
        normalization: Of the hidden layers of the critic, unless its networks need another one.
        independent_halves: Whether real and fake each hold two independent batches, one behind the
            other, where the objective compares batches of one law.
        paired: Whether the fake samples of a generator step are followed by as many that the
            generator made of the codes of the real ones.
    """

    normalization: ClassVar[str] = "none"
    independent_halves: ClassVar[bool] = False
    paired: ClassVar[bool] = False

    def coding_steps(self, steps: int) -> int:
        """Steps at the start that train the generator as the decoder of an autoencoder.

        The step that follows them transports noise to the codes of training samples; from then on
        codes are what the generator is given.

        Args:
            steps: Steps of the whole run.

        Returns:
            How many; 0 for an objective without codes.
        """
        return 0

    def coding_loss(self, real: Tensor, rebuilt: Tensor) -> Loss:
        """Loss of encoder and generator in these steps.

        Args:
            real: Samples (B, ...) in the networks' units.
            rebuilt: What the generator made of their codes, with the graph of both.

        Returns:
            The loss.

        Raises:
            NotImplementedError: If there are none.
        """
        raise NotImplementedError(f"{type(self).__name__} has no autoencoder.")

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """What is trained beside the generator.

        Args:
            critic: Makes a critic with a normalisation; see `networks.Pair`.

        Returns:
            Networks by name, each of which `critic_loss` trains.
        """
        return nn.ModuleDict({"critic": critic(self.normalization)})

    def critic_steps(self, step: int) -> int:
        """Critic steps before a generator step.

        Args:
            step: The number of generator steps so far.

        Returns:
            How many, 0 for an objective or a step without them.
        """
        return 1

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Loss of the networks.

        Args:
            networks: What `networks` made.
            real: Samples (B, ...) in the networks' units; 2 B with `independent_halves`.
            fake: Samples of the same shape, without graph.

        Returns:
            The loss.

        Raises:
            NotImplementedError: If there are no critic steps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no critic steps.")

    def after_critic_step(self, networks: nn.ModuleDict) -> dict[str, Tensor]:
        """What follows an optimiser step of the networks, such as clipping.

        Args:
            networks: What `networks` made, to be changed in place.

        Returns:
            Numbers to log.
        """
        return {}

    def generator_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Loss of the generator.

        Args:
            networks: What `networks` made.
            real: Samples as in `critic_loss`.
            fake: Samples with the graph of the generator; twice as many where `paired`.

        Returns:
            The loss.

        Raises:
            NotImplementedError: If the class does not say.
        """
        raise NotImplementedError


def option(default: Any, text: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of an objective with the text that the command line shows for it.

    Args:
        default: Its default value, whose type is that of the option.
        text: One sentence, with the formula's symbol where it has one.
        choices: The values it takes; none for any.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


def check_choices(options: Any) -> None:
    """Raise unless every option that has choices takes one of them.

    Args:
        options: A dataclass whose fields are made by `option`, or have no metadata.

    Raises:
        ValueError: If an option does not.
    """
    for field in dataclasses.fields(options):
        choices, value = field.metadata.get("choices"), getattr(options, field.name)
        if choices and value not in choices:
            raise ValueError(f"`{field.name}` must be one of {', '.join(choices)}, got {value!r}.")


def halves(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent batches that stand one behind the other.

    Args:
        samples: Samples (2 B, ...).

    Returns:
        Samples (B, ...), twice.
    """
    first, second = samples.chunk(2)
    return first, second


def gradients(critic: Critic, samples: Tensor) -> Tensor:
    """Gradients (B, D) of the scores, flattened, differentiable in the critic.

    Computed in float32 also under autocast.

    Args:
        critic: The critic.
        samples: Where to take the gradients (B, ...).

    Returns:
        The gradients.
    """
    with torch.autocast(samples.device.type, enabled=False):
        dtype = torch.promote_types(samples.dtype, torch.float32)
        points = samples.detach().to(dtype).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return slopes.flatten(1)


def gradient_norms(critic: Critic, samples: Tensor) -> Tensor:
    """Lengths (B,) of `gradients`, with a slope at 0 that is not infinite.

    Args:
        critic: The critic.
        samples: Where to take the gradients (B, ...).

    Returns:
        The lengths.
    """
    return lengths(gradients(critic, samples))


def lengths(vectors: Tensor) -> Tensor:
    """Lengths (B,) of vectors (B, D), with a slope at 0 that is not infinite.

    Args:
        vectors: The vectors.

    Returns:
        The lengths, at least 1e-6.
    """
    return (vectors.square().sum(1) + 1e-12).sqrt()
