"""Runs that code, transport and train: stages, kills in each of them, what is sampled."""

import json
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from otmetrics.reference_models import saving, training
from otmetrics.reference_models.codes import code_scores, reconstruction
from otmetrics.reference_models.config import TrainConfig
from otmetrics.reference_models.data import Data
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.health import Health
from otmetrics.reference_models.objectives import AEOT
from otmetrics.reference_models.priors import NoisePrior, TransportPrior
from otmetrics.reference_models.sampling import Sampler, generate_samples
from otmetrics.reference_models.steps import State, initial_state
from torch import Tensor, nn
from training_cases import Plain, Stopped, configured, images, points, run, weights

from otmetrics.errors import DivergedError, OptionError
from otmetrics.functional import laguerre_cells
from otmetrics.transport.semidiscrete.sources import random_samples

CPU = torch.device("cpu")
OPTIONS: dict[str, Any] = {"num_codes": 30, "tolerance": 0.03, "max_rounds": 2}  # one is needed


class Killed(Exception):  # noqa: N818 - it stands for a kill
    """The end of a run at a moment of its own."""


def coded(name: str, data: Data, **options: Any) -> TrainConfig:
    steps = {"autoencoder_share": 0.4} if name == "ae-ot-gan" else {}
    objective = OPTIONS | steps | options.pop("objective", {})
    return configured(name, data, objective, latent=3, **options)


def rows(out: Path) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


# --- the prior --------------------------------------------------------------------------------


def transport(num: int, latent: int, **options: Any) -> TransportPrior:
    made = AEOT(**options).prior("normal", latent, num)
    assert isinstance(made, TransportPrior)
    return made


def prior(**options: Any) -> TransportPrior:
    """Of 60 codes in three groups."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.eye(3)[torch.arange(60) % 3]
    made = transport(60, 3, **(OPTIONS | {"num_codes": 60} | options))
    made.begin(torch.arange(60), centres + torch.randn(60, 3, generator=generator), seed=1)
    while not made.known:
        made.advance(seed=1)
    return made


def test_codes_are_drawn_between_codes_of_neighbours() -> None:
    made = prior(rule="two-face", share=0.25, angle=0.5)
    drawn = made.map_noise(500, torch.Generator().manual_seed(3))
    assert 0.3 < drawn.kept.double().mean() < 1
    codes = made.sample(100, torch.Generator().manual_seed(4))
    assert codes.shape == (100, 3)
    assert codes.dtype == torch.float32
    # Each is on a segment: a quarter of the way from one code to another.
    mixed = 0.75 * made.points[:, None] + 0.25 * made.points[None]
    distances = torch.cdist(codes, mixed.flatten(0, 1))
    assert distances.min(1).values.max() < 5e-3  # cdist has few digits


def test_without_an_angle_all_noise_is_kept_and_cells_are_equal() -> None:
    made = prior(angle=0.0, tolerance=0.2)
    drawn = made.map_noise(6000, torch.Generator().manual_seed(3))
    assert drawn.kept.all()
    counts = drawn.faces[:, 0].bincount(minlength=60)
    assert (counts > 60).all()
    assert (counts < 150).all()  # a hundred are expected
    noise = random_samples("cube", 3, 6000, generator=torch.Generator().manual_seed(3))
    cells = laguerre_cells(noise.float(), made.points, made.heights)
    assert torch.equal(cells, drawn.faces[:, 0])


def test_more_samples_of_a_prior_are_its_own() -> None:
    made = prior()
    torch.manual_seed(9)
    one = made.sample(50)
    torch.manual_seed(9)
    assert torch.equal(made.sample(50), one)
    assert not torch.equal(made.sample(50), one)


def test_an_angle_that_rejects_everything_is_said() -> None:
    with pytest.raises(OptionError, match=r"`angle` 1e-06 keeps 0\.00% of the noise"):
        prior(angle=1e-6)


def test_codes_that_are_all_equal_are_said() -> None:
    made = transport(30, 2)
    with pytest.raises(OptionError, match="gives all samples one code"):
        made.begin(torch.arange(30), torch.ones(30, 2), seed=0)


def test_one_sample_has_nothing_to_go_between() -> None:
    with pytest.raises(OptionError, match="at least 2 training samples, got 1"):
        transport(1, 2).begin(torch.arange(1), torch.ones(1, 2), seed=0)


def test_noise_between_empty_cells_is_not_kept() -> None:
    made = prior(rule="inverse-distance", angle=0.8)
    before = made.map_noise(500, torch.Generator().manual_seed(3))
    made.centres[1::2] = 1e9  # as where no sample fell
    after = made.map_noise(500, torch.Generator().manual_seed(3))
    assert after.kept.sum() < before.kept.sum()
    assert not after.shares[after.faces % 2 == 1].any()


def test_copies_among_the_data_do_no_harm() -> None:
    codes = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    made = transport(60, 2, max_rounds=0)
    logs = made.begin(torch.arange(60), codes.repeat_interleave(2, 0), seed=0)
    assert made.known
    assert logs["kept"] > 0.3
    assert made.sample(100).isfinite().all()


def test_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = NoisePrior("normal", 2).sample(10_000, generator)
    assert normal.std().item() == pytest.approx(1, abs=0.02)
    uniform = NoisePrior("uniform", 2).sample(10_000, generator)
    assert uniform.abs().max() <= 1
    assert uniform.std().item() == pytest.approx(3**-0.5, abs=0.01)


# --- stages -----------------------------------------------------------------------------------


def test_stages_of_a_run(tmp_path: Path) -> None:
    data = points()
    state = run(coded("ae-ot-gan", data), data, tmp_path / "run")
    assert state.step == 12
    assert state.encoder is not None
    log = [row for row in rows(tmp_path / "run") if "score/reconstruction" not in row]
    kinds = [
        "coding" if "coding_loss" in row else "transport" if "misfit" in row else "adversarial"
        for row in log
    ]
    assert kinds == ["coding"] * 5 + ["transport"] + ["adversarial"] * 6
    assert log[5]["step"] == 6
    assert 0 < log[5]["kept"] <= 1
    assert {"content", "feature", "critic_loss", "generator_loss", "spread"} < log[6].keys()
    scored = [row for row in rows(tmp_path / "run") if "score/reconstruction" in row]
    assert [row["step"] for row in scored] == [6, 12]
    assert all("score/sliced_wasserstein" in row for row in scored)
    known = state.prior
    assert isinstance(known, TransportPrior)
    assert len(known.ids.unique()) == 30
    # What it holds are the codes of those samples.
    codes = state.sampler.codes(data.train[known.ids], data)
    torch.testing.assert_close(codes, known.points)


def test_before_the_transport_only_the_rebuilt_is_scored(tmp_path: Path) -> None:
    data = points()
    run(coded("ae-ot", data, eval_every=4), data, tmp_path / "run", pictures=True)
    scored = [row for row in rows(tmp_path / "run") if "score/reconstruction" in row]
    assert [row["step"] for row in scored] == [4, 8, 12]
    assert ["score/recall" in row for row in scored] == [False, False, True]
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 3


def test_images_are_shown_beside_what_is_rebuilt_of_them(tmp_path: Path) -> None:
    data = images((1, 8, 8))
    config = coded("ae-ot", data, eval_every=6, eval_features="pixels", eval_num=20)
    state = run(config, data, tmp_path / "run", pictures=True)
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    assert generate_samples(state.sampler, data, 5, 0).shape == (5, 1, 8, 8)
    assert state.prior.ids.tolist() == list(range(30))  # all there are


@pytest.mark.parametrize("name", ["ae-ot", "ae-ot-gan"])
def test_killed_in_every_stage_and_resumed_it_has_the_same_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each checkpoint of the transport, which has one a round, and before or after others."""
    data = points()
    # Two rounds are needed.
    config = coded(name, data, objective={"tolerance": 0.02}, eval_every=4, batch_size=8)
    saves: list[tuple[str, int, int]] = []
    save = saving.save

    def counted(path: Path, state: dict[str, Any], config: TrainConfig) -> None:
        saves.append((path.name, state["step"], int(state["prior"]["progress"][0])))
        if len(saves) == stop and early:
            raise Killed
        save(path, state, config)
        if len(saves) == stop:
            raise Killed

    stop, early = 0, False
    monkeypatch.setattr(saving, "save", counted)
    whole = run(config, data, tmp_path / "whole")
    coding = config.objective.coding_steps(config.steps)
    within = [number for number, (_, step, _) in enumerate(saves, 1) if step == coding]
    rounds = [saves[number - 1][2] for number in within]
    assert rounds == [-1, 0, 60]  # the codes, the first heights, a round; one more ends the step
    others = random.Random(name).sample(sorted(set(range(1, len(saves) + 1)) - set(within)), 2)
    # The transport is that of both presets.
    stops = (*within, others[0]) if name == "ae-ot" else (within[1], *others)
    for stop in stops:
        early = stop == others[0]
        out = tmp_path / f"stopped{stop}"
        saves.clear()
        with pytest.raises(Killed):
            run(config, data, out)
        torch.manual_seed(1)  # nothing of another process is left
        saves.clear()
        saves.extend([("none", 0, 0)] * 1000)  # no more kills
        resumed = run(config, data, out, resume=True)
        check_same(whole, resumed)
        assert rows(out) == rows(tmp_path / "whole")


def test_a_stop_after_the_transport_keeps_what_it_warns_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step is never taken again: what is told after a stop is told by nobody.

    Nor may an evaluation, which can fail, come first.
    """
    stopping, before = False, list[str]()

    def progress(done: int, total: int, text: str) -> None:
        nonlocal stopping
        stopping |= text.startswith("transporting")
        if text.startswith("evaluating"):
            before.extend(told)

    @contextmanager
    def interrupts(alone: bool) -> Iterator[Callable[[], bool]]:
        yield lambda: stopping

    monkeypatch.setattr(training, "deferred_interrupts", interrupts)
    monkeypatch.setattr(Health, "unequal_shares", lambda self, values: "unequal shares")
    data, out, told = points(), tmp_path / "run", list[str]()
    reporter = Plain(out, progress=progress, warn=told.append, tensorboard=False)
    config = coded("ae-ot-gan", data, objective={"max_rounds": 0})
    with pytest.raises(KeyboardInterrupt):
        training.train(
            config, data, out, reporter=reporter, options=training.RunOptions(device="cpu")
        )
    assert saving.load(out / saving.LAST)["prior"]["progress"][2] == 1
    assert told == before == ["step 6: unequal shares"]


def check_same(one: State, two: State) -> None:
    pairs = zip(weights(one), weights(two), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert one.best == two.best


def test_what_is_exported_draws_the_same_samples(tmp_path: Path) -> None:
    data = points()
    state = run(coded("ae-ot", data), data, tmp_path / "run")
    sampler, config, blank = saving.load_generator(tmp_path / "run")
    assert config == coded("ae-ot", data)
    samples = generate_samples(sampler, blank, 300, seed=3)
    assert torch.equal(samples, generate_samples(state.sampler, data, 300, seed=3))
    assert torch.equal(samples[:7], generate_samples(sampler, blank, 7, seed=3))
    assert torch.equal(
        sampler.codes(data.train[:9], data), state.sampler.codes(data.train[:9], data)
    )


def test_with_no_rate_the_generator_stays_the_decoder(tmp_path: Path) -> None:
    """The state after the transport, which is what comes before the first adversarial step."""
    data = points()
    config = coded("ae-ot-gan", data, lr_generator=1e-30)
    with pytest.raises(Stopped):
        run(config, data, tmp_path / "run", stop=7, checkpoint_every=100)
    decoder = saving.load(tmp_path / "run" / saving.LAST)
    assert decoder["step"] == 6
    fresh = initial_state(config, data, CPU).generator.state_dict()
    ended = run(config, data, tmp_path / "run", resume=True).generator.state_dict()
    for name, value in ended.items():
        assert torch.equal(value, decoder["generator"][name])
        assert not torch.equal(value, fresh[name])
    moving = run(coded("ae-ot-gan", data), data, tmp_path / "moving").generator.state_dict()
    assert not all(torch.equal(value, ended[name]) for name, value in moving.items())


def test_more_steps_do_not_code_again(tmp_path: Path) -> None:
    """What is transported would be codes of another encoder."""
    data, out = points(), tmp_path / "run"
    run(coded("ae-ot", data), data, out)
    with pytest.raises(OptionError, match="is beyond the 11 steps of its autoencoder, which"):
        run(coded("ae-ot", data, steps=24), data, out, resume=True, allow_change=True)
    out = tmp_path / "gan"
    run(coded("ae-ot-gan", data), data, out)
    for steps in (24, 200):
        with pytest.raises(OptionError, match="`steps` and `autoencoder_share` so that they stay"):
            run(coded("ae-ot-gan", data, steps=steps), data, out, resume=True, allow_change=True)
    options = {"autoencoder_share": 5 / 14}
    longer = coded("ae-ot-gan", data, steps=14, objective=options)
    state = run(longer, data, out, resume=True, allow_change=True)
    assert state.step == 14
    codes = state.sampler.codes(data.train[state.prior.ids], data)
    torch.testing.assert_close(codes, state.prior.points)


def test_another_angle_holds_from_where_a_run_goes_on(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    with pytest.raises(Stopped):
        run(coded("ae-ot-gan", data), data, out, stop=9)
    options = {"resume": True, "allow_change": True}
    with pytest.raises(OptionError, match="`angle` 1e-07 keeps"):
        run(coded("ae-ot-gan", data, objective={"angle": 1e-7}), data, out, **options)
    wide = run(coded("ae-ot-gan", data, objective={"angle": 0.0}), data, out, **options)
    assert wide.prior.map_noise(200).kept.all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rule", ["two-face", "inverse-distance"])
def test_stages_on_a_device(rule: str, tmp_path: Path) -> None:
    data = points()
    config = coded("ae-ot-gan", data, objective={"rule": rule})
    state = run(config, data, tmp_path / "run", device="auto")
    assert state.step == 12
    assert state.prior.points.is_cuda
    assert state.best["recall"] >= 0


def test_codes_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    data = points()
    config = coded("ae-ot", data, objective={"lr_autoencoder": 1e30}, lr_decay="none")
    with pytest.raises(DivergedError, match="not finite"):
        run(config, data, tmp_path / "run")


def test_the_last_digits_of_a_transport_are_no_warning(tmp_path: Path) -> None:
    data = points()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(coded("ae-ot", data, objective={"tolerance": 1e-6}), data, tmp_path / "run")


# --- what codes say ---------------------------------------------------------------------------


class Identity(nn.Module):
    """An encoder and a decoder of points that are their own codes, off by a constant."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift), requires_grad=False)

    def forward(self, samples: Tensor) -> Tensor:
        return samples + self.shift


def own_codes(data: Data, **options: Any) -> Sampler:
    ids = torch.arange(400)
    made = transport(len(ids), 2, max_rounds=0, **options)
    made.begin(ids, data.to_network(data.train[ids]), seed=0)
    return Sampler(Identity(0.1), made, Identity(0.0))


def test_scores_of_codes() -> None:
    data = points()
    sampler = own_codes(data)
    assert reconstruction(sampler, data, data.held_out[:50]) == pytest.approx(0.01, rel=1e-4)
    scores = code_scores(sampler, data, data.held_out[:500], seed=0)
    assert scores.reconstruction == pytest.approx(0.01, rel=1e-4)
    assert scores.purity == 1.0
    assert scores.purity_unfiltered is not None
    assert scores.purity_unfiltered < 1.0
    assert 0.5 < scores.kept <= 1.0
    assert 0.05 < scores.distance < 1.0
    # Codes near the ends of segments are nearly copies; with a tiny share all are.
    assert scores.copies < 0.6
    copied = code_scores(own_codes(data, share=1e-6), data, data.held_out[:500], seed=0)
    assert copied.copies > 0.99
    assert copied.distance < 1e-3


def test_classes_are_those_of_labels_or_not_known() -> None:
    data = points()
    labels = torch.arange(len(data.train)) % 2
    labelled = Data("own", data.train, data.held_out, (labels, labels), data.scaling)
    scores = code_scores(own_codes(data), labelled, data.held_out[:100], seed=0)
    assert scores.purity is not None
    assert 0.2 < scores.purity < 0.8
    unknown = Data("own", data.train, data.held_out, None, data.scaling)
    assert code_scores(own_codes(data), unknown, data.held_out[:100], seed=0).purity is None


def test_an_evaluator_has_them_only_where_there_are_codes() -> None:
    data = points()
    config = configured("exact-ot", data)
    evaluator = Evaluator(config, data, CPU)
    noise = Sampler(Identity(0.0), NoisePrior("normal", 2), None)
    assert evaluator.code_scores(noise) is None
    assert "reconstruction" not in evaluator(noise).scores
    sampler = own_codes(data)
    found = evaluator.code_scores(sampler)
    assert found is not None
    assert evaluator(sampler).scores["reconstruction"] == found.reconstruction
