"""What training asks of an objective."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from otmetrics.checks import check_at_least
from otmetrics.errors import Argument, OptionError

from ..networks import Critic
from ..priors import NoisePrior, Prior

_FIRST = 25  # generator steps, each after a critic trained to near its optimum
_AGAIN = 500  # and so every so many steps
_MANY = 100  # critic steps that this takes


class Loss(NamedTuple):
    """What to minimise, and what to log.

    Attributes:
        value: A scalar with its graph.
        logs: Scalars without one, by name.
    """

    value: Tensor
    logs: dict[str, Tensor]


class Objective:
    """A pair of losses, as a frozen dataclass whose fields are its options.

    An objective holds no tensors: what is trained next to the generator lies in the module that
    `networks` makes, and training hands it back. Losses are minimised. Samples (B, ...) are in the
    networks' units. In `critic_loss` the fake samples carry no graph; in `generator_loss` the
    networks require no gradient, so that gradients flow through them to the fake samples only.

    Each field is made by `option`, which tells what it is. An option that breaks its rule raises
    OptionError.

    Attributes:
        normalization: Of the hidden layers of the critic, unless its networks need another one.
        independent_halves: Whether real and fake each hold two independent batches, one behind the
            other, where the objective compares batches of one distribution.
        paired: Whether the fake samples of a generator step are followed by as many that the
            generator made of the codes of the real ones.
        num_critic_steps: Critic steps per generator step, unless `critic_steps` says otherwise.
        warm_up: Whether more critic steps are taken at some steps; see `warmed_up`.
        lr_autoencoder: Learning rate of encoder and decoder, where `coding_steps` are taken.
    """

    normalization: ClassVar[str] = "none"
    independent_halves: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    num_critic_steps: int = 1
    warm_up: bool = False
    lr_autoencoder: float = 0.0

    def __post_init__(self) -> None:
        check_options(self)

    def prior(self, noise: str, latent: int, num_samples: int) -> Prior:
        """Where the inputs of the generator come from, before the first step.

        Args:
            noise: "normal" or "uniform".
            latent: The dimension of an input.
            num_samples: The number of training samples, or of codes where they are known.

        Returns:
            The prior.
        """
        return NoisePrior(noise, latent)

    def networks(self, critic: Callable[[str], Critic]) -> nn.ModuleDict:
        """What is trained next to the generator.

        Args:
            critic: Makes a critic with a normalisation; see `networks.Pair`.

        Returns:
            Networks by name, each of which `critic_loss` trains.
        """
        return nn.ModuleDict({"critic": critic(self.normalization)})

    def coding_steps(self, steps: int) -> int:
        """How many of all steps train the generator as the decoder of an autoencoder at the start.

        The step that follows them transports noise to the codes of training samples; from then on
        codes are what the generator is given.

        Args:
            steps: All steps of a run.

        Returns:
            How many, 0 for an objective without an autoencoder.
        """
        return 0

    def coding_loss(self, real: Tensor, rebuilt: Tensor) -> Loss:
        """Loss of encoder and generator in the steps of the autoencoder.

        Args:
            real: Samples (B, ...).
            rebuilt: What the generator made of their codes, with the graph of both.

        Returns:
            The loss.

        Raises:
            NotImplementedError: If there are no such steps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no autoencoder.")

    def critic_steps(self, step: int) -> int:
        """Critic steps before a generator step.

        Args:
            step: The number of generator steps so far.

        Returns:
            How many, 0 for an objective or a step without them.
        """
        return warmed_up(step, self.num_critic_steps) if self.warm_up else self.num_critic_steps

    def critic_loss(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> Loss:
        """Loss of the networks.

        Args:
            networks: What `networks` made.
            real: Samples (B, ...), or (2 B, ...) with `independent_halves`.
            fake: As many, without graph.

        Returns:
            The loss.

        Raises:
            NotImplementedError: If there are no critic steps.
        """
        raise NotImplementedError(f"{type(self).__name__} has no critic steps.")

    def after_critic_step(self, networks: nn.ModuleDict) -> dict[str, Tensor]:
        """Change the networks after their optimiser's step, such as clip them.

        Args:
            networks: What `networks` made.

        Returns:
            Scalars to log, by name.
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


def option(
    default: Any,
    text: str,
    choices: tuple[str, ...] = (),
    check: Callable[[str, Any], None] | None = None,
) -> Any:
    """A field of an objective or a run: its default, whose type is its own, and what it is.

    Args:
        default: Its default value.
        text: One sentence for the command line, with the symbol of the formula.
        choices: The values it takes; none for any.
        check: Called with name and value; raises where the value breaks its rule.

    Returns:
        A dataclass field.
    """
    return dataclasses.field(
        default=default, metadata={"help": text, "choices": choices, "check": check}
    )


def at_least(minimum: int) -> Callable[[str, Any], None]:
    """The check of an option that is an integer of at least so much."""
    return lambda name, value: check_at_least(name, value, minimum)


def check_options(options: Any) -> None:
    """Raise OptionError unless every option of a dataclass keeps the rule that `option` gave it."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        choices, check = field.metadata.get("choices"), field.metadata.get("check")
        if choices and value not in choices:
            raise OptionError(
                Argument(field.name), f" must be one of {', '.join(choices)}, got {value!r}."
            )
        if check:
            check(field.name, value)


def warmed_up(step: int, num_steps: int) -> int:
    """100 critic steps at each of the first 25 steps and at every 500th, or the other number.

    The code of WGAN has these longer phases, and its paper has not.
    """
    return max(_MANY, num_steps) if step < _FIRST or step % _AGAIN == 0 else num_steps


def critic_of(networks: nn.ModuleDict) -> Critic:
    """The network of the name "critic"."""
    return cast(Critic, networks["critic"])


def halves(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent batches that stand one behind the other."""
    first, second = samples.chunk(2)
    return first, second


def gradients(critic: Critic, samples: Tensor) -> Tensor:
    """Gradients (B, D) of the scores, flattened, differentiable in the critic.

    They are float32 also under autocast.
    """
    with torch.autocast(samples.device.type, enabled=False):
        # Leaves of their own: what the samples were made by has no part in a penalty.
        dtype = torch.promote_types(samples.dtype, torch.float32)
        points = samples.detach().to(dtype).requires_grad_()
        (slopes,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
        return slopes.flatten(1)


def gradient_norms(critic: Critic, samples: Tensor) -> Tensor:
    """Lengths (B,) of `gradients`."""
    return lengths(gradients(critic, samples))


def lengths(vectors: Tensor) -> Tensor:
    """Lengths (B,) of vectors (B, D), at least 1e-6: the slope of a plain one is infinite at 0."""
    return (vectors.square().sum(1) + 1e-12).sqrt()
