"""The loop: every preset runs, a killed run goes on to the same weights, signs of trouble."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from otmetrics.reference_models import saving
from otmetrics.reference_models.config import EVALUATED, HIGHER_IS_BETTER, config_from
from otmetrics.reference_models.evaluation import Evaluator
from otmetrics.reference_models.health import Health
from otmetrics.reference_models.presets import PRESETS
from otmetrics.reference_models.priors import NoisePrior
from otmetrics.reference_models.reporter import curves
from otmetrics.reference_models.resuming import changes
from otmetrics.reference_models.sampling import generate_samples
from otmetrics.reference_models.steps import follow, gan_step, initial_state
from otmetrics.reference_models.training import RunOptions, train
from training_cases import Plain, Stopped, configured, images, points, run, weights

from otmetrics.errors import DataError, DivergedError, OptionError

# Objectives with all that a run can hold: critics, batch-norm, spectral norms, duals, clipping.
RESUMED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("wgan-gp", {}, {}),
    ("wgan", {"warm_up": False}, {}),
    ("rot-gan", {"inner": "net"}, {"precision": "bfloat16"}),
    ("ot-gan", {}, {"noise": "uniform"}),
    ("swg", {}, {}),
]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_on_points(name: str, tmp_path: Path) -> None:
    data = points()
    objective = {"warm_up": False} if name == "wgan" else {}
    state = run(configured(name, data, objective, steps=3), data, tmp_path / "run")
    assert state.step == 3
    assert state.best["sliced_wasserstein"] > 0
    before = torch.load(tmp_path / "run" / saving.LAST, weights_only=True)
    assert before["step"] == 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", ["dcgan", "sngan", "wgan-gp", "ot-gan"])
def test_images_of_every_size_train(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    data = images(shape)
    config = configured(
        name, data, steps=2, width=8, batch_size=4, eval_features="pixels", eval_num=20
    )
    state = run(config, data, tmp_path / "run", pictures=True)
    assert set(state.best) >= {"sliced_wasserstein", "wasserstein", "recall"}
    (picture,) = sorted((tmp_path / "run" / "samples").glob("*2.png"))
    assert picture.stat().st_size > 100


@pytest.mark.parametrize(("name", "objective", "options"), RESUMED)
def test_killed_at_any_step_and_resumed_it_has_the_same_weights(
    name: str, objective: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    data = points()
    config = configured(name, data, objective, eval_every=4, **options)
    whole = run(config, data, tmp_path / "whole")
    for stop in random.Random(name).sample(range(1, config.steps), 2):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(Stopped):
            run(config, data, out, stop=stop)
        torch.manual_seed(1)  # nothing of another process is left
        resumed = run(config, data, out, resume=True)
        pairs = zip(weights(whole), weights(resumed), strict=True)
        assert all(torch.equal(one, two) for one, two in pairs)
        assert resumed.best == whole.best
        best = (saving.load(folder / saving.BEST) for folder in (tmp_path / "whole", out))
        assert_equal(*best)
        assert losses(out) == losses(tmp_path / "whole")


def assert_equal(one: Any, two: Any) -> None:
    """All that two checkpoints hold is the same, to the bit."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            assert_equal(one[name], two[name])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert one == two


def losses(out: Path) -> list[dict[str, float]]:
    """Rows of a log without their times."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_batch_norm_and_its_average_resume_too(tmp_path: Path) -> None:
    data = images((1, 28, 28))
    config = configured("dcgan", data, steps=6, width=4, eval_features="pixels", eval_num=20)
    whole = run(config, data, tmp_path / "whole")
    with pytest.raises(Stopped):
        run(config, data, tmp_path / "stopped", stop=4)
    resumed = run(config, data, tmp_path / "stopped", resume=True)
    pairs = zip(weights(whole), weights(resumed), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_how_often_it_logs_and_saves_does_not_matter(tmp_path: Path) -> None:
    data = points()
    config = configured("wgan-gp", data)
    one = run(config, data, tmp_path / "one")
    two = run(config, data, tmp_path / "two", log_every=5, checkpoint_every=7)
    pairs = zip(weights(one), weights(two), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    data = points()
    runs = [
        run(configured("wgan-gp", data, seed=seed), data, tmp_path / f"{i}")
        for i, seed in enumerate((1, 1, 2))
    ]
    first = [weights(state)[0] for state in runs]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_a_run_is_not_overwritten_nor_mixed_with_another(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    config = configured("wgan-gp", data)
    run(config, data, out)
    before = (out / saving.LAST).read_bytes()
    with pytest.raises(OptionError, match="holds a run"):
        run(config, data, out)
    other = configured("wgan-gp", data, {"penalty": 3.0}, lr_critic=0.5)
    message = r"lr_critic 0\.0\d* -> 0\.5; penalty [\d.]+ -> 3\.0"
    with pytest.raises(OptionError, match=message):
        run(other, data, out, resume=True)
    assert (out / saving.LAST).read_bytes() == before
    wider = configured("wgan-gp", data, width=17)
    with pytest.raises(OptionError, match="of another kind or size"):
        run(wider, data, out, resume=True, allow_change=True)
    assert (out / saving.LAST).read_bytes() == before
    longer = configured("wgan-gp", data, steps=14)
    assert run(longer, data, out, resume=True, allow_change=True).step == 14


def test_a_damaged_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    config = configured("exact-ot", data, steps=2)
    run(config, data, out)
    whole = (out / saving.LAST).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        (out / saving.LAST).write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            run(config, data, out, resume=True)
    torch.save({"version": 0}, out / saving.LAST)
    with pytest.raises(DataError, match="not a checkpoint of this version"):
        run(config, data, out, resume=True)


def test_checkpoints_hold_no_code(tmp_path: Path) -> None:
    """They load without unpickling objects, and their configuration makes the run again."""
    data, out = points(), tmp_path / "run"
    config = configured("rot-gan", data, {"inner": "net"}, steps=2)
    run(config, data, out)
    state = torch.load(out / saving.LAST, weights_only=True)
    assert config_from(state["config"]) == config
    assert state["hash"] == config.hash
    assert changes(state["config"], config.to_dict()) == []
    assert {"generator", "average", "networks", "generator_optimizer", "critic_optimizer"} < set(
        state
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_diverging_run_stops_and_keeps_its_last_good_checkpoint(
    name: str, tmp_path: Path
) -> None:
    """Whoever meets the first number that is not finite: loss, solver, score or weights."""
    data, out = points(), tmp_path / "run"
    objective = {"warm_up": False} if name == "wgan" else {}
    if name == "ae-ot":
        objective = {"lr_autoencoder": 1e30}
    rates = {"lr_generator": 1e30, "lr_critic": 1e30, "lr_decay": "none"}
    config = configured(name, data, objective, steps=30, batch_size=8, eval_every=30, **rates)
    with pytest.raises(DivergedError, match="not finite at step"):
        run(config, data, out, checkpoint_every=1, log_every=7)
    for path in out.glob("*.pt"):
        assert saving.is_finite(torch.load(path, weights_only=True))


def test_no_other_error_is_told_as_one_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in an objective is not a run that diverged."""

    def fail(*_: object) -> None:
        raise ValueError("shapes do not match")

    data = points()
    monkeypatch.setattr("otmetrics.reference_models.training.gan_step", fail)
    with pytest.raises(ValueError, match="shapes do not match"):
        run(configured("exact-ot", data), data, tmp_path / "run")


def test_the_average_follows_the_generator(tmp_path: Path) -> None:
    """Its half-life is that of the images seen, and short early on."""
    data = points()
    quick = run(configured("exact-ot", data, ema_images=1), data, tmp_path / "quick")
    slow = run(configured("exact-ot", data, steps=40), data, tmp_path / "slow")
    distances = []
    for state in (quick, slow):
        pairs = zip(state.average.parameters(), state.generator.parameters(), strict=True)
        distances.append(sum(float((a - b).detach().norm()) for a, b in pairs))
    assert distances[0] < 1e-3
    assert distances[1] > 10 * distances[0]
    assert not any(p.requires_grad for p in slow.average.parameters())


def test_its_half_life_is_in_images(tmp_path: Path) -> None:
    """Of a generator that stands still after it moved, also with two batches in a step."""
    data = points()
    for name in ("exact-ot", "ot-gan"):
        config = configured(name, data, batch_size=10, ema_images=100)
        state = initial_state(config, data, torch.device("cpu"))
        state.images = 10**6
        weight = next(state.generator.parameters())
        before = weight.detach().clone()
        with torch.no_grad():
            weight += 1.0
        images = 20 if name == "ot-gan" else 10
        for _ in range(100 // images):
            follow(state, config, images)
        moved = next(state.average.parameters()) - before
        torch.testing.assert_close(moved, torch.full_like(moved, 0.5))


def test_what_is_evaluated_in_between_does_not_matter_to_training(tmp_path: Path) -> None:
    data = points()
    states = [
        run(
            configured("wgan-gp", data, eval_every=every),
            data,
            tmp_path / f"{every}",
            pictures=True,
        )
        for every in (3, 12)
    ]
    pairs = zip(*(state.generator.parameters() for state in states), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_the_best_generator_is_that_of_the_run_that_goes_on(tmp_path: Path) -> None:
    """A best checkpoint from after the last one belongs to a branch that was given up."""
    data, out = points(), tmp_path / "run"
    options = {"steps": 20, "eval_every": 1, "select": "wasserstein"}
    config = configured("exact-ot", data, lr_generator=0.003, **options)
    with pytest.raises(Stopped):
        run(config, data, out, stop=19, checkpoint_every=16)
    stored = saving.load(out / saving.LAST)
    assert stored["step"] == 16
    assert saving.load(out / saving.BEST)["step"] > 16
    other = configured("exact-ot", data, lr_generator=30.0, **options)
    with pytest.raises(Stopped):
        run(other, data, out, stop=17, resume=True, allow_change=True)
    sampler, *_ = saving.load_generator(out)
    generator = sampler.generator
    best = saving.load(out / saving.LAST)["best_average"]
    assert all(torch.equal(value, best[name]) for name, value in generator.state_dict().items())
    assert not (out / saving.BEST).exists()


def test_a_configuration_of_another_version_matters_to_codes_alone(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    run(configured("exact-ot", data, steps=2), data, out)
    state = saving.load(out / saving.LAST)
    state["config"]["more"] = 1
    saving.save(out / saving.LAST, state, configured("exact-ot", data, steps=2))
    longer = configured("exact-ot", data, steps=3)
    assert run(longer, data, out, resume=True, allow_change=True).step == 3


def test_pairs_need_an_encoder() -> None:
    data = points()
    config = configured("ae-ot-gan", data)
    state = initial_state(config, data, torch.device("cpu"))
    state.encoder, state.prior = None, NoisePrior("normal", config.latent)
    with pytest.raises(AssertionError, match="pairs need an encoder"):
        gan_step(state, config, data, Accelerator(cpu=True))


def test_a_refused_run_loses_no_best_checkpoint(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    options = {"steps": 20, "eval_every": 1, "select": "wasserstein", "lr_generator": 0.003}
    config = configured("exact-ot", data, **options)
    with pytest.raises(Stopped):
        run(config, data, out, stop=19, checkpoint_every=16)
    best = (out / saving.BEST).read_bytes()
    (out / "log.jsonl").unlink()
    (out / "log.jsonl").mkdir()
    with pytest.raises(DataError, match="must be a regular file"):
        run(config, data, out, resume=True)
    assert (out / saving.BEST).read_bytes() == best


def test_a_resumed_run_knows_that_samples_had_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = points(), tmp_path / "run"
    config = configured("exact-ot", data)
    with pytest.raises(Stopped):
        run(config, data, out, stop=7)
    spread = {row["step"]: row["spread"] for row in losses(out) if "spread" in row}
    known: list[dict[str, float]] = []
    monkeypatch.setattr(Health, "remember", lambda self, rows: known.extend(rows))
    run(config, data, out, resume=True)
    assert {row["step"]: row["spread"] for row in known if "spread" in row} == {
        step: value for step, value in spread.items() if step <= 6
    }


def test_the_exported_generator_is_the_average_at_its_best_step(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    state = run(configured("exact-ot", data, steps=12, eval_every=12), data, out)
    sampler, config, blank = saving.load_generator(out)
    generator = sampler.generator
    assert config == configured("exact-ot", data, steps=12, eval_every=12)
    pairs = zip(generator.parameters(), state.average.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)
    raw = next(state.generator.parameters())
    assert not torch.equal(next(generator.parameters()), raw)
    samples = generate_samples(sampler, blank, 700, seed=3)
    assert torch.equal(samples, generate_samples(state.sampler, data, 700, seed=3))
    assert torch.equal(samples[:3], generate_samples(sampler, blank, 3, seed=3))


def test_a_generator_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(saving, "FORMAT", 1)
        run(configured("exact-ot", points(), steps=2), points(), tmp_path)
    with pytest.raises(DataError, match=r"not a generator of this version.*version 1, not 4"):
        saving.load_generator(tmp_path)


@pytest.mark.parametrize("name", EVALUATED)
def test_every_score_may_choose_the_best(name: str, tmp_path: Path) -> None:
    data = points()
    state = run(configured("exact-ot", data, steps=4, eval_every=1, select=name), data, tmp_path)
    rows = losses(tmp_path)
    found = {row["step"]: row for row in rows if f"score/{name}" in row}
    assert len(found) == 4
    kept = int(state.best["step"])
    assert state.best[name] == found[kept][f"score/{name}"]
    pick = max if name in HIGHER_IS_BETTER else min
    extreme = pick(found, key=lambda step: found[step][f"score/{name}"])
    assert {kept, extreme} <= state.best_set.members.keys()
    # What was noted of later ones was of this one.
    later = {step: bool(row["best_set"]) for step, row in found.items() if step >= kept}
    assert later == {step: step in state.best_set.members for step in later}
    for row in found.values():
        assert row[f"low/{name}"] < row[f"high/{name}"]


def test_a_run_ends_with_the_best_set_and_the_number_to_report(tmp_path: Path) -> None:
    data = points()
    config = configured("exact-ot", data, steps=8, eval_every=2, eval_num=100)
    reporter = Plain(tmp_path, tensorboard=False)
    state = train(config, data, tmp_path, reporter=reporter, options=RunOptions(device="cpu"))
    best, told = reporter.conclusion
    others = sorted(state.best_set.members.keys() - {int(state.best["step"])})
    listed = ", ".join(map(str, others)) or "no other evaluation"
    assert best == f"not told apart from it at 95%: {listed}"

    sampler, *_ = saving.load_generator(tmp_path)
    score = Evaluator(config, data, torch.device("cpu")).report(sampler)[0].scores["coverage"]
    assert score.interval is not None
    assert told == (
        f"coverage on fresh samples: {score.value:.4g}, 95% interval {score.interval.low:.4g} to "
        f"{score.interval.high:.4g}, for the mean at these sizes: the number to report"
    )


def test_intervals_are_bands_of_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def fill(axis: Any, *band: Any, **options: Any) -> None:
        drawn.append((axis.get_lines()[0].get_ydata().tolist(), band))

    monkeypatch.setattr("matplotlib.axes.Axes.fill_between", fill)
    rows = [
        {"step": step, "images": 1, "seconds": 0.0, "score/a": step + 0.5, "score/b": 1.0}
        | {"low/a": float(step), "high/a": step + 1.0, "best_set": 1.0}
        for step in (1, 2, 3)
    ]
    curves(tmp_path, rows)
    assert drawn == [([1.5, 2.5, 3.5], ((1, 2, 3), (1.0, 2.0, 3.0), (2.0, 3.0, 4.0)))]
    assert [path.name for path in tmp_path.iterdir()] == ["scores.png"]  # no losses among them


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    data = points()
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(OptionError, match="holds other files, and no run"):
        run(configured("exact-ot", data), data, tmp_path)
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = points(), tmp_path / "run"
    config = configured("exact-ot", data)
    with pytest.raises(Stopped):
        run(config, data, out, stop=4)
    before = (out / saving.LAST).read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("otmetrics.safe_files.os.fdopen", full)
    with pytest.raises(DataError, match="No space left on device"):
        run(config, data, out, resume=True)
    assert (out / saving.LAST).read_bytes() == before
    assert not list(out.glob("*.partial"))


def test_a_log_with_a_damaged_end_goes_on_from_its_whole_rows(tmp_path: Path) -> None:
    data, out = points(), tmp_path / "run"
    config = configured("exact-ot", data)
    with pytest.raises(Stopped):
        run(config, data, out, stop=5)
    with (out / "log.jsonl").open("ab") as file:
        file.write(b'\xff{"step": 2}\n{"step": ')
    run(config, data, out, resume=True)
    assert {row["step"] for row in losses(out)} == set(range(1, 13))


def test_learning_rates_fall_to_the_last_step(tmp_path: Path) -> None:
    data = points()
    rates = {
        decay: run(
            configured("exact-ot", data, lr_decay=decay, lr_generator=0.5, steps=4),
            data,
            tmp_path / decay,
        ).generator_optimizer.param_groups[0]["lr"]
        for decay in ("linear", "none")
    }
    assert rates == {"linear": pytest.approx(0.125), "none": 0.5}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"steps": 0}, "`steps` must be"),
        ({"beta1": 1.0}, "`beta1` must be"),
        ({"optimizer": "sgd"}, "`optimizer` must be one of adam, rmsprop"),
        ({"select": "fid"}, "`select` must be one of"),
        ({"lr_critic": -1.0}, "`lr_critic` must be"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_options_are_checked(option: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        configured("wgan-gp", points(), **option)


def test_networks_that_do_not_take_the_data_are_refused(tmp_path: Path) -> None:
    data = points()
    with pytest.raises(OptionError, match="`architecture` must be mlp"):
        run(configured("dcgan", data, architecture="resnet"), data, tmp_path / "run")
