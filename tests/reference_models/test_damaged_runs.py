"""What becomes of a run whose files are damaged, forged or cut short: one line, or the same run."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_cases
from forks import Forks
from otmetrics.reference_models import saving
from otmetrics.reference_models.config import TrainConfig
from otmetrics.reference_models.resuming import has_begun, read_config
from training_cases import configured, points, run

from otmetrics.errors import DataError, OptionError


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return configured("dcgan", points(), steps=2, width=4, eval_every=2)


@pytest.fixture(scope="module")
def whole(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done; tests look at copies."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(config, points(), out, checkpoint_every=2)
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def damaged(content: bytes, flips: int) -> list[bytes]:
    """Copies with one flipped bit each, all over; cut short, and with something behind."""
    rng = random.Random(0)
    copies = []
    for place in range(0, len(content), max(1, len(content) // flips)):
        copy = bytearray(content)
        copy[place] ^= 1 << rng.randrange(8)
        copies.append(bytes(copy))
    copies += [content[: rng.randrange(len(content))] for _ in range(10)]
    return [*copies, b"", content[:-1], content + b"\0", content + content[-48:]]


def test_a_checkpoint_with_any_other_bytes_is_refused(out: Path) -> None:
    place = out / saving.LAST
    for content in damaged(place.read_bytes(), 300):
        place.write_bytes(content)
        with pytest.raises(DataError, match=r"is damaged \(.*check.?sum.*\): copy best\.pt"):
            saving.load(place)


def test_a_generator_with_any_other_bytes_is_refused(out: Path) -> None:
    place = out / saving.GENERATOR
    for content in damaged(place.read_bytes(), 300):
        place.write_bytes(content)
        with pytest.raises(DataError, match="is damaged") as caught:
            saving.load_generator(out)
        assert "\n" not in str(caught.value)


def test_torch_alone_reads_a_checkpoint(out: Path) -> None:
    assert torch.load(out / saving.LAST, weights_only=True)["step"] == 2


@pytest.mark.parametrize("name", [saving.LAST, saving.BEST])
def test_a_run_with_a_damaged_file_is_not_touched(
    config: TrainConfig, out: Path, name: str
) -> None:
    content = bytearray((out / name).read_bytes())
    content[len(content) // 2] ^= 1
    (out / name).write_bytes(content)
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(
        DataError, match=f"{name}` is not a checkpoint of this version or is damaged"
    ):
        run(config, points(), out, resume=True)
    assert before == {path: path.read_bytes() for path in out.iterdir() if path.is_file()}


def first(parts: dict[Any, Any]) -> Any:
    """The name of a part."""
    return next(iter(parts))


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of a record: a value in a place; a callable is given what was there."""

    def edit(state: dict[str, Any]) -> None:
        *parents, last = path
        for name in parents:
            state = state[first(state) if name is first else name]
        last = first(state) if last is first else last
        state[last] = value(state.get(last)) if callable(value) else value

    return edit


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    """An edit of a record: a part that is missing."""
    return lambda state: state.pop(name) and None


MALFORMED = {
    "no step": drop("step"),
    "no networks": drop("networks"),
    "no optimiser": drop("generator_optimizer"),
    "step is a word": put("step", value="two"),
    "step is a flag": put("step", value=True),
    "step below zero": put("step", value=-1),
    "step without end": put("step", value=10**400),
    "step is a tensor": put("step", value=torch.ones(3)),
    "images is a float": put("images", value=1.5),
    "config is a list": put("config", value=[]),
    "config holds a tensor": put("config", "seed", value=torch.zeros(2)),
    "config has numbers for names": put("config", 3, value=1),
    "best is a tensor": put("best", value=torch.zeros(3)),
    "best has no step": put("best", value={"sliced_wasserstein": 1.0, "recall": 0.5}),
    "best holds words": put("best", "recall", value="much"),
    "best_average is empty": put("best_average", value={}),
    "no best_set": drop("best_set"),
    "best_set is a list": put("best_set", value=[]),
    "best_set of no step": put("best_set", "two", value={}),
    "best_set of a later step": put("best_set", "3", value=lambda _: {}),
    "best_set holds words": put("best_set", "2", value="much"),
    "an evaluation lacks its effects": put("best_set", "2", "effects", value={}),
    "an evaluation has more": put("best_set", "2", "more", value=1.0),
    "an evaluation is of a number": put("best_set", "2", "of", value=2),
    "an evaluation is NaN": put("best_set", "2", "centre", value=float("nan")),
    "an error is a tensor": put("best_set", "2", "error", value=torch.zeros(())),
    "effects are NaN": put("best_set", "2", "effects", first, value=lambda old: old / 0 * 0),
    "effects are floats": put("best_set", "2", "effects", first, value=lambda old: old.float()),
    "effects are flat": put("best_set", "2", "effects", first, value=lambda old: old[None]),
    "effects are huge": put(
        "best_set", "2", "effects", first, value=torch.zeros(1).double().expand(10**12)
    ),
    "one effect": put("best_set", "2", "effects", first, value=lambda old: old[..., :1].clone()),
    "generator is none": put("generator", value=None),
    "generator is a list": put("generator", value=[torch.zeros(2)]),
    "a weight is a number": put("generator", first, value=1.0),
    "a weight is NaN": put("generator", first, value=lambda old: old * float("nan")),
    "a weight is a double": put("generator", first, value=lambda old: old.double()),
    "a weight is complex": put("average", first, value=lambda old: old + 0j),
    "a weight is sparse": put("average", first, value=lambda old: old.to_sparse()),
    "a weight is nowhere": put("average", first, value=lambda old: old.to("meta")),
    "a weight is huge": put("networks", first, value=torch.zeros(1).expand(10**12)),
    "a weight has another shape": put("networks", first, value=torch.zeros(3)),
    "a weight more": put("generator", "more", value=torch.zeros(3)),
    "moments are a list": put("critic_optimizer", "state", value=[]),
    "moments of another parameter": put("critic_optimizer", "state", 99, value={}),
    "moments are words": put("critic_optimizer", "state", 0, "exp_avg", value="x"),
    "moments have another shape": put(
        "generator_optimizer", "state", 0, "exp_avg", value=torch.zeros(7)
    ),
    "moments of another kind": put("generator_optimizer", "state", 0, value={"step": 1}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_record_is_one_line(config: TrainConfig, out: Path, case: str) -> None:
    """The bytes are those that were written: only what they say is wrong."""
    place = out / saving.LAST
    state = saving.load(place)
    MALFORMED[case](state)
    saving.save(place, state, config)  # with a checksum of its own
    with pytest.raises(DataError, match=r"malformed record|sparse tensor") as caught:
        run(config, points(), out, resume=True)
    assert "\n" not in str(caught.value)


def test_rates_and_decays_are_those_of_the_options(config: TrainConfig, out: Path) -> None:
    """Whatever a checkpoint says of them."""
    place = out / saving.LAST
    state = saving.load(place)
    state["generator_optimizer"]["param_groups"] = ["nothing"]
    saving.save(place, state, config)
    resumed = run(config, points(), out, resume=True)
    assert resumed.generator_optimizer.param_groups[0]["betas"] == (config.beta1, config.beta2)


def edited(out: Path, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Change what a generator's file says, and hash it anew."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(out / saving.GENERATOR, framework="pt") as file:
        record = json.loads(file.metadata()["otmetrics"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    edit(record, tensors)
    text = json.dumps(record)
    metadata = {"otmetrics": text, "sha256": saving._hash(text, tensors)}
    save_file(tensors, out / saving.GENERATOR, metadata=metadata)


CLAIMS: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
    "no shape": lambda record, tensors: record.pop("shape"),
    "shape is a word": lambda record, tensors: record.update(shape="2"),
    "shape is huge": lambda record, tensors: record.update(shape=[10**12]),
    "shape of no image": lambda record, tensors: record.update(shape=[2, 8, 8]),
    "no units": lambda record, tensors: record.update(scaling=None),
    "units of zero": lambda record, tensors: record.update(scaling=[[0, 0], [0, 0]]),
    "units are NaN": lambda record, tensors: record.update(scaling=[[float("nan"), 0], [1, 1]]),
    "units of another shape": lambda record, tensors: record.update(scaling=[[0], [1]]),
    "config is a list": lambda record, tensors: record.update(config=[]),
    "width is huge": lambda record, tensors: record["config"].update(width=10**9),
    "width is a word": lambda record, tensors: record["config"].update(width="4"),
    "seed is a flag": lambda record, tensors: record["config"].update(seed=True),
    "data is a number": lambda record, tensors: record["config"].update(data=5),
    "an option more": lambda record, tensors: record["config"].update(more=5),
    "version is a word": lambda record, tensors: record.update(version="four"),
    "weights are doubles": lambda record, tensors: tensors.update(
        {name: value.double() for name, value in tensors.items()}
    ),
    "weights are NaN": lambda record, tensors: [
        value.fill_(torch.nan) for value in tensors.values()
    ],
    "a weight less": lambda record, tensors: tensors.pop(first(tensors)),
    "codes of noise": lambda record, tensors: tensors.update({"prior.points": torch.zeros(3, 2)}),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_what_a_generator_claims_is_checked(out: Path, case: str) -> None:
    edited(out, CLAIMS[case])
    with pytest.raises(DataError, match="not a generator of this version or is damaged") as caught:
        saving.load_generator(out)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_a_generator_of_codes_must_have_a_transport(tmp_path: Path) -> None:
    """Without one, drawing samples would never end."""
    run(configured("ae-ot", points(), steps=4), points(), tmp_path)
    saving.load_generator(tmp_path)

    def forget(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["prior.progress"][2] = 0

    def other(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        tensors["prior.progress"][2] = 1
        tensors["prior.ids"][0] = -5

    for edit in (forget, other):
        edited(tmp_path, edit)
        with pytest.raises(
            DataError, match=r"not a generator of this version or is damaged.*transport"
        ):
            saving.load_generator(tmp_path)


@pytest.mark.parametrize("name", [saving.LAST, saving.GENERATOR])
def test_what_is_no_regular_file_is_not_opened(out: Path, name: str) -> None:
    """A fifo would wait for ever for somebody who writes."""
    (out / name).unlink()
    os.mkfifo(out / name)
    with pytest.raises(DataError, match="is not a regular file"):
        saving.load_generator(out) if name == saving.GENERATOR else saving.load(out / name)


def test_a_link_that_leads_nowhere_is_no_start_anew(config: TrainConfig, out: Path) -> None:
    """Perhaps a disk is missing: nothing replaces the link."""
    (out / saving.LAST).unlink()
    (out / saving.LAST).symlink_to(out / "elsewhere")
    with pytest.raises(OptionError, match="holds a run: set `resume`"):
        run(config, points(), out)
    with pytest.raises(DataError, match="does not exist"):
        run(config, points(), out, resume=True)
    assert (out / saving.LAST).is_symlink()


def json_of(content: bytes) -> Any:
    """What looks like a configuration in a file; None where nothing does."""
    try:
        values = json.loads(content)
    except ValueError:
        return None
    return values if {"preset", "objective", "hash"} <= values.keys() else None


def test_a_configuration_with_other_values_is_refused(out: Path) -> None:
    place = out / "config.json"
    before, whole = read_config(out), place.read_bytes()
    assert before is not None
    for content in damaged(whole, 200):
        place.write_bytes(content)
        if json_of(content) is None:
            assert read_config(out) is None  # "holds other files, and no run"
        elif json_of(content) == json_of(whole):
            assert read_config(out) == before
        else:
            with pytest.raises(DataError, match="was changed or is damaged"):
                read_config(out)


@pytest.mark.parametrize("kind", ["fifo", "folder", "large", "nested", "no text", "list"])
def test_what_is_no_configuration_is_left_alone(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "config.json"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "large":
        with place.open("wb") as file:
            file.truncate(1 << 40)
    else:
        place.write_bytes({"nested": b"[" * 10**5, "no text": b"\xff\xfe", "list": b"[1]"}[kind])
    with pytest.raises(OptionError, match="holds other files, and no run"):
        has_begun(tmp_path)
    assert read_config(tmp_path) is None


def test_rows_beside_damaged_ones_are_kept(config: TrainConfig, out: Path) -> None:
    place = out / "log.jsonl"
    rows = place.read_text().splitlines(keepends=True)
    wrong = [
        '{"step": "one", "images": 1, "seconds": 0.1}\n',
        '{"step": 1, "images": 1, "seconds": null}\n',
        '{"step": 1, "images": [1], "seconds": 0.1}\n',
        '{"step": 1, "images": ' + "9" * 400 + ', "seconds": 0.1}\n',
        "[" * 10**5 + "\n",
        '{"step": 1, "seconds": NaN}\n',
        "[1, 2]\n",
        "\0\0\0\n",
    ]
    place.write_text("".join([rows[0], *wrong, *rows[1:], '{"step": 2, "sec']))
    run(config, points(), out, resume=True)
    assert place.read_text().splitlines(keepends=True) == rows


def test_a_log_that_is_no_file_is_refused(config: TrainConfig, out: Path) -> None:
    (out / "log.jsonl").unlink()
    os.mkfifo(out / "log.jsonl")
    with pytest.raises(DataError, match="must be a regular file"):
        run(config, points(), out, resume=True)


def test_pictures_are_not_written_through_links(tmp_path: Path) -> None:
    data, out, mine = points(), tmp_path / "run", tmp_path / "mine"
    config = configured("dcgan", data, steps=4, width=4, eval_every=2)
    short = configured("dcgan", data, steps=2, width=4, eval_every=2)
    run(short, data, out, pictures=True, checkpoint_every=2)
    mine.write_text("mine")
    for name in ("losses.png", "log.csv", "samples/step_0000004.png"):
        (out / name).unlink(missing_ok=True)
        (out / name).symlink_to(mine)
    run(config, data, out, pictures=True, resume=True, allow_change=True)
    assert mine.read_text() == "mine"
    assert all(path.is_file() and not path.is_symlink() for path in out.glob("*.png"))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from otmetrics.reference_models.training import RunOptions, train
from training_cases import Curveless, configured, points, weights

data, root = points(), Path(sys.argv[2])
config = configured("dcgan", data, steps=3, width=4, eval_every=3)

def run(out, resume=False):
    options = RunOptions(log_every=1, checkpoint_every=2, device="cpu", resume=resume)
    return train(config, data, out, reporter=Curveless(out, tensorboard=False), options=options)

def killed(out, moment):
    '''Run until the file system is about to be changed for this time.'''
    left = moment

    def hook(event, arguments):
        nonlocal left
        changes = event in ("os.mkdir", "os.rename") or event == "open" and arguments[2] & 3
        if changes and str(arguments[0]).startswith(str(out)):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(hook)
        run(out)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

whole = weights(run(root / "whole"))
for moment in (3, 4, 5, 6, 7, 8, 11, 16, 21):
    out = root / str(moment)
    assert killed(out, moment)
    print(*(path.name for path in out.iterdir()) if out.exists() else ["nothing"])
    resumed = weights(run(out, resume=True))
    assert all(torch.equal(one, two) for one, two in zip(whole, resumed, strict=True)), moment
    assert not list(out.glob(".*")), moment
"""


@pytest.mark.skipif(os.name == "nt", reason="needs fork")
def test_killed_at_any_moment_it_goes_on_to_the_same_weights(forks: Forks, tmp_path: Path) -> None:
    """Before changes of the file system: the folder, each of its files, and between them."""
    here = str(Path(training_cases.__file__).parent)
    (tmp_path / "program.py").write_text(KILLED)
    process = forks.start("program", here, tmp_path, cwd=tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    left = [set(line.split()) for line in out.splitlines()]
    assert {"samples"} in left
    assert {"samples", "config.json"} in left
    assert {"samples", "config.json", "log.jsonl"} in left
    assert any(saving.LAST in names for names in left)


def test_a_run_without_a_checkpoint_begins_when_asked_to(
    config: TrainConfig, whole: Path, out: Path
) -> None:
    for name in (saving.LAST, saving.BEST, saving.GENERATOR):
        (out / name).unlink()
    with pytest.raises(OptionError, match="stopped before its first checkpoint: set `resume`"):
        run(config, points(), out)
    resumed = run(config, points(), out, resume=True)
    stored = saving.load(whole / saving.LAST)["generator"]
    pairs = zip(resumed.generator.state_dict().values(), stored.values(), strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


def test_a_run_goes_on_from_its_best_checkpoint_where_that_is_all(
    config: TrainConfig, out: Path
) -> None:
    (out / saving.LAST).unlink()
    with pytest.raises(OptionError, match="holds a run: set `resume`"):
        run(config, points(), out)
    assert run(config, points(), out, resume=True).step == 2
