"""From scratch: perceptrons, then a network that learns, every derivative by hand (NumPy).

    python -m jobs.from_scratch.train                    # half a minute on a laptop; a GPU would have nothing to do
    python -m jobs.from_scratch.train --preset smoke     # seconds

Three stages: what a perceptron decides (printed, nothing is learnt); networks of 1 to 50 hidden units on the two moons,
of which the validation loss names the one that generalises best; and handwritten digits of 8 x 8 pixels read by 30
sigmoid neurons. Each stage stands beside a baseline that fails at it, measured on the same held-out examples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from jobs.common.args import option, parse
from jobs.common.numpy_run import NumpyRun, State
from jobs.common.plots import loss_curve
from jobs.from_scratch import perceptron
from jobs.from_scratch.data import Array, Batches, Labels, digits, moons, split_shuffled
from jobs.from_scratch.moons import MoonNetwork, StraightLine
from jobs.from_scratch.network import SigmoidNetwork

CHECKPOINT = "checkpoint.npz"


@dataclass(frozen=True)
class Settings:
    units: str = option("1,2,3,4,5,20,50", "hidden units of the networks on the moons")
    passes: int = option(20_000, "passes over the moons")
    hidden: int = option(30, "hidden neurons of the network that reads digits")
    epochs: int = option(150, "epochs over the digits")
    batch: int = option(10, "digits per step")
    lr: float = option(3.0, "learning rate")


PRESETS = {
    "smoke": Settings(units="1,3,20", passes=2_001, epochs=10),
    "laptop": Settings(),
    "gpu": Settings(),  # nothing here is large enough for one
}


def main() -> None:
    common, settings = parse(PRESETS, doc=__doc__)
    run = NumpyRun(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    start: State = {"settings": {**asdict(settings), "seed": common.seed}, "moons": {}, "digits": None}
    state = run.resume(start["settings"])
    if state is None:
        state = start
    else:
        run.restore(state)
    decide()
    report = [*learn_moons(run, state, settings), *learn_digits(run, state, settings, common.seed)]
    if not run.stopping:
        run.save(CHECKPOINT, run.capture(**state, finished=True))
        run.text("report.txt", "\n".join(report) + "\n")
        print("\n".join(["", *report]))


# ---- 1. what a perceptron decides


def decide() -> None:
    """The lawn mower by one neuron and by two layers; NAND, and a truth table made of nothing else."""
    print("shall I mow the lawn?  clear long easy   w·x+b   perceptron   two layers")
    for row in product((0, 1), repeat=3):
        evidence = perceptron.MOW.evidence(*row)
        print(f"{'':23}{row[0]:5}{row[1]:5}{row[2]:5}{evidence:8}{perceptron.MOW(*row):13}", end="")
        print(f"{perceptron.mow_in_two_layers(*row):13}")
    print("x y   NAND   exclusive or, of NANDs alone")
    for x, y in product((0, 1), repeat=2):
        print(f"{x} {y}{perceptron.NAND(x, y):7}{perceptron.from_nands((0, 1, 1, 0), (x, y)):10}")


# ---- 2. the two moons: too small, right, too large


def sizes(words: str) -> list[int]:
    """Numbers of hidden units, commas between them. Raises SystemExit with one line where they are none."""
    if not all(word.strip().isdecimal() and int(word) for word in words.split(",")):
        raise SystemExit(f"--units wants numbers from 1 with commas between them, not {words!r}")
    return [int(word) for word in words.split(",")]


def learn_moons(run: NumpyRun, state: State, settings: Settings) -> list[str]:
    """Train every size and compare on points that none has seen. Sizes already in `state` are not trained again."""
    x, y = moons(200, seed=0)
    fresh_x, fresh_y = moons(1000, seed=1)  # chooses the size
    last_x, last_y = moons(2000, seed=2)  # judges it, once
    networks = {}
    for units in sizes(settings.units):
        networks[units] = network = MoonNetwork(units)
        if str(units) in state["moons"]:
            network.load_state_dict(state["moons"][str(units)])
            continue
        print(f"moons, {units} hidden units")
        for number in range(settings.passes):
            network.step(x, y)
            if number % 1000 == 0:
                print(f"Loss after iteration {number}: {network.objective(x, y):.6f}", flush=True)
                if run.stopping or run.out_of_time:
                    return []
        state["moons"][str(units)] = network.state_dict()
        run.save(CHECKPOINT, run.capture(**state))

    line = StraightLine(x, y)
    run.figure("moons.png", draw_moons(x, y, networks, line))
    rows = ["moons             train loss   val loss   right, of 200 known   right, of 1,000 fresh"]
    rows.append(f"a straight line{line.accuracy(x, y):47.3f}{line.accuracy(fresh_x, fresh_y):24.3f}")
    losses = {units: network.loss(fresh_x, fresh_y) for units, network in networks.items()}
    for units, network in networks.items():
        right = f"{network.accuracy(x, y):22.3f}{network.accuracy(fresh_x, fresh_y):24.3f}"
        rows.append(f"{units:2} hidden units{network.loss(x, y):14.4f}{losses[units]:11.4f}{right}")
    best = min(losses, key=losses.__getitem__)
    score = networks[best].accuracy(last_x, last_y)
    return [
        *rows,
        f"the validation loss names {best} hidden units; on 2,000 other points, looked at once,",
        f"they are right on {score:.3f}, the straight line on {line.accuracy(last_x, last_y):.3f}",
        "",
    ]


def draw_moons(x: Array, y: Labels, networks: dict[int, MoonNetwork], line: StraightLine) -> Figure:
    """Where each network changes its mind, beside the straight line."""
    (left, bottom), (right, top) = x.min(axis=0) - 0.5, x.max(axis=0) + 0.5
    across, up = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    grid = np.column_stack([across.ravel(), up.ravel()])
    panels = {"a straight line": line.answers(grid)}
    for units, network in networks.items():
        panels[f"{units} hidden unit{'s' if units > 1 else ''}"] = np.argmax(network.forward(grid)[1], axis=1)
    figure = Figure(figsize=(10, 2.6 * -(-len(panels) // 4)), dpi=70)
    for place, (title, answer) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(-(-len(panels) // 4), 4, place, title=title, xticks=[], yticks=[])
        axes.contourf(across, up, answer.reshape(across.shape), levels=1, cmap="RdYlBu", alpha=0.6)
        axes.scatter(x[:, 0], x[:, 1], c=y, s=8, cmap="RdYlBu", edgecolors="black", linewidths=0.3)
    return figure


# ---- 3. digits by thirty neurons


def learn_digits(run: NumpyRun, state: State, settings: Settings, seed: int) -> list[str]:
    """The hand-made network reads the digits; what is kept is the epoch with the lowest validation cost."""
    images, names = digits()
    wanted = np.eye(10)[names]
    train, val, test = split_shuffled(len(images), seed=0)
    network = SigmoidNetwork((64, settings.hidden, 10), np.random.RandomState(seed))
    batches = Batches(len(train), settings.batch, seed=seed)
    best: State = {"cost": float("inf"), "epoch": 0, "network": network.state_dict()}
    if state["digits"] is not None:
        network.load_state_dict(state["digits"]["network"])
        batches.load_state_dict(state["digits"]["batches"])
        best = state["digits"]["best"]

    while batches.epoch < settings.epochs:
        for batch in batches.next_epoch():
            chosen = train[batch]
            network.step(images[chosen], wanted[chosen], settings.lr)
        costs = {"train": network.cost(images[train], wanted[train]), "val": network.cost(images[val], wanted[val])}
        right = float(np.mean(network.answers(images[val]) == names[val]))
        run.log(step=batches.step, epoch=batches.epoch, losses=costs, val_accuracy=right)
        if costs["val"] < best["cost"]:
            best = {"cost": costs["val"], "epoch": round(batches.epoch), "network": network.state_dict()}
        ending = run.stopping or run.out_of_time
        if ending or batches.epoch % 10 == 0:
            now = {"network": network.state_dict(), "batches": batches.state_dict(), "best": best}
            state.update(digits=now, step=batches.step)
            run.save(CHECKPOINT, run.capture(**state))
        if ending:
            break
    if run.stopping:
        return []
    network.load_state_dict(best["network"])
    run.figure("curve.png", loss_curve(run.metrics, unit="quadratic cost", title="8 x 8 digits"))
    dark = by_darkness(images[train], names[train], images[test])
    cost = network.cost(images[test], wanted[test])
    right = float(np.mean(network.answers(images[test]) == names[test]))
    run.log(step=batches.step, epoch=batches.epoch, split="test", loss=cost, accuracy=right)
    return [
        f"digits: {len(test)} held out, looked at once (epoch {best['epoch']}, of the lowest validation cost)",
        f"told apart by how much ink they have  {float(np.mean(dark == names[test])):.4f}",
        f"{settings.hidden} neurons, all by hand               {right:.4f}",
    ]


def by_darkness(known: Array, names: Labels, unknown: Array) -> Labels:
    """The baseline: the digit whose average amount of ink is nearest."""
    ink = np.array([known[names == digit].mean() for digit in range(10)])
    return np.asarray(np.argmin(np.abs(unknown.mean(axis=1, keepdims=True) - ink), axis=1))


if __name__ == "__main__":
    main()
