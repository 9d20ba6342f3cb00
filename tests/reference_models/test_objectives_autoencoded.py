"""Losses of decoders, in formulas written another way; what options must be."""

from typing import Any

import pytest
import torch
from otmetrics.reference_models.config import TrainConfig
from otmetrics.reference_models.networks import networks
from otmetrics.reference_models.objectives import AEOT, AEOTGAN
from torch import Tensor, nn

from otmetrics.errors import OptionError


def critic() -> nn.ModuleDict:
    torch.manual_seed(0)
    pair = networks((2,), latent=3, width=8, architecture="mlp")
    return AEOTGAN().networks(pair.critic).eval()  # spectral norms stay as they are


def batch(size: int = 6, seed: int = 1) -> Tensor:
    return torch.randn(size, 2, generator=torch.Generator().manual_seed(seed))


def test_the_autoencoder_has_the_mean_squared_error_of_values() -> None:
    real, rebuilt = batch(), batch(seed=2)
    loss = AEOT().coding_loss(real, rebuilt)
    assert loss.value.item() == pytest.approx(((rebuilt - real) ** 2).sum().item() / 12)
    assert len(AEOT().networks(lambda _: pytest.fail("there is no critic"))) == 0
    assert AEOT().critic_steps(0) == 0


def test_the_last_step_is_the_transport() -> None:
    assert AEOT().coding_steps(100) == 99
    assert AEOTGAN(autoencoder_share=0.3).coding_steps(100) == 30


def test_losses_of_the_critic_and_of_the_generator() -> None:
    objective, nets = AEOTGAN(content=3.0, feature=0.7), critic()
    real, made, rebuilt = batch(), batch(seed=2) + 1, batch(seed=3)
    score: Any = nets["critic"]
    on_real, on_made = score(real).detach(), score(made).detach()
    value = objective.critic_loss(nets, real, made).value
    hinges = (
        [max(0.0, 1 - s) for s in on_real.tolist()],
        [max(0.0, 1 + s) for s in on_made.tolist()],
    )
    assert value.item() == pytest.approx((sum(hinges[0]) + sum(hinges[1])) / 6, rel=1e-5)
    loss = objective.generator_loss(nets, real, torch.cat([made, rebuilt]))
    content = ((rebuilt - real) ** 2).mean()
    phi, psi = score.body(rebuilt), score.body(real)
    feature = ((phi - psi) ** 2).sum() / phi.numel()
    expected = -on_made.mean() + 3.0 * content + 0.7 * feature
    assert loss.value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.logs["content"].item() == pytest.approx(content.item())
    assert loss.logs["feature"].item() == pytest.approx(feature.item())


def test_gradients_of_samples_and_of_what_is_rebuilt() -> None:
    """Without weights the pairs do not count; with them the generator is drawn to both."""
    nets = critic().requires_grad_(False)
    real, fake = batch(), torch.cat([batch(seed=2), batch(seed=3)]).requires_grad_()
    AEOTGAN(content=0, feature=0).generator_loss(nets, real, fake).value.backward()
    assert fake.grad is not None
    assert fake.grad[:6].any()
    assert not fake.grad[6:].any()
    fake.grad = None
    AEOTGAN().generator_loss(nets, real, fake).value.backward()
    assert (fake.grad != 0).any(1).all()


def test_the_features_keep_their_digits_under_autocast() -> None:
    nets = critic()
    real, fake = batch(), torch.cat([batch(seed=2), batch(seed=3)])
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values.append(AEOTGAN().generator_loss(nets, real, fake).value)
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(values[1], values[0], rtol=0.03, atol=0.02)


@pytest.mark.parametrize(
    ("shape", "architecture"),
    [
        ((2,), "mlp"),
        ((1, 8, 8), "mlp"),
        ((1, 28, 28), "dcgan"),
        ((3, 32, 32), "dcgan"),
        ((1, 28, 28), "resnet"),
        ((3, 32, 32), "resnet"),
        ((3, 64, 64), "resnet"),
    ],
)
def test_codes_depend_on_no_other_sample_and_on_where_things_are(
    shape: tuple[int, ...], architecture: str
) -> None:
    torch.manual_seed(0)
    made = networks(shape, latent=5, width=8, architecture=architecture).encoder()
    samples = torch.randn(3, *shape)
    codes = made(samples)
    assert codes.shape == (3, 5)
    torch.testing.assert_close(made(samples[:1]), codes[:1], rtol=1e-4, atol=1e-5)
    if len(shape) == 3:
        shifted = made(samples.roll(shape[1] // 2, dims=2))
        assert (codes - shifted).abs().max() > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 19}, "`num_codes` must be an integer >= 20"),
        ({"tolerance": 0.0}, "`tolerance`"),
        ({"max_rounds": -1}, "`max_rounds`"),
        ({"angle": -1.0}, "`angle`"),
        ({"source": "disc"}, "`source` must be one of cube, ball, gaussian"),
        ({"num_faces": 1}, "`num_faces`"),
        ({"rule": "nearest"}, "`rule` must be one of two-face, inverse-distance"),
        ({"share": 2.0}, "`share`"),
        ({"lr_autoencoder": 0.0}, "`lr_autoencoder`"),
        ({"autoencoder_share": 1.0}, "`autoencoder_share`"),
        ({"content": -1.0}, "`content`"),
        ({"feature": -1.0}, "`feature`"),
        ({"num_critic_steps": 0}, "`num_critic_steps`"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AEOTGAN(**options)


def test_a_run_has_steps_for_each_stage() -> None:
    with pytest.raises(OptionError, match="`steps` must be above the 100 of the autoencoder"):
        TrainConfig(AEOTGAN(autoencoder_share=0.999), "ring8", steps=100)
    with pytest.raises(OptionError, match="`steps` must be above the 1 of the autoencoder"):
        TrainConfig(AEOT(), "ring8", steps=1)
