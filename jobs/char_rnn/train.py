"""Learn to write like Shakespeare, one character at a time.

    python -m jobs.char_rnn.train                                   # all of the plays
    python -m jobs.char_rnn.train --data any.txt --max-seconds 180  # any text, three minutes
    python -m jobs.char_rnn.train sample outputs/checkpoint.pt --prime "DUKE:"
    python -m jobs.char_rnn.train evaluate outputs/checkpoint.pt --data other.txt

The text is cut in order: 88 % to learn from, 2 % to choose by (val), 10 % for the final word (test).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jobs.char_rnn import use
from jobs.char_rnn.model import CELLS, CharRNN, Committee, Memory, loss_of, nats, write
from jobs.char_rnn.muon import Muon
from jobs.char_rnn.text import Streams, Vocabulary, counting_nats, read_text
from jobs.common.args import option, parse
from jobs.common.data import split_in_order
from jobs.common.device import bfloat16_is_faster, bfloat16_works, limit_threads, pick_device, seed_everything
from jobs.common.plots import loss_curve
from jobs.common.run import Run, State, Stateful

SAMPLE_AT = (0.03, 0.17, 0.20, 0.37, 11.5)  # epochs: noise, then word shapes, then names and lines


@dataclass(frozen=True)
class Settings:
    data: str = option("", "text file to learn from; without one, all of Shakespeare's plays")
    cell: str = option("lstm", "kind of recurrent layer", choices=sorted(CELLS))
    networks: int = option(1, "number of networks, trained independently, whose predictions are averaged")
    layers: int = option(2, "recurrent layers per network")
    hidden: int = option(256, "units per layer")
    embedding: int = option(48, "size of a character's embedding")
    dropout: float = option(0.1, "share of a layer's outputs that the next one does not see", most=0.95)
    forget: float = option(0.02, "probability of emptying the memory at a position of the text", most=1)
    batch: int = option(64, "places in the text read in parallel")
    sequence: int = option(64, "characters per step, which gradients flow back through")
    steps: int = option(7500, "steps to train")
    lr: float = option(0.08, "peak learning rate of the recurrent layers' matrices (Muon)")
    decay: float = option(0.1, "weight decay of those matrices, against overfitting")
    other_lr: float = option(1.2e-2, "peak learning rate of all other weights (AdamW)")
    other_decay: float = option(0.01, "weight decay of all other weights")
    warm_up: int = option(20, "steps until the learning rates reach their peak")
    clip: float = option(1.0, "maximum norm of the gradient")
    precision: str = option("auto", "auto: bfloat16 where that is faster", choices=["auto", "float32", "bfloat16"])
    eval_every: int = option(500, "steps between validations and checkpoints")
    prime: str = option("\n", "text that samples continue")
    temperature: float = option(0.8, "how daring samples are: 0 takes the likeliest character, 1 samples as learnt")
    sample: int = option(500, "characters per sample", least=0)


PRESETS = {
    "smoke": Settings(layers=1, hidden=64, batch=32, sequence=32, steps=150, eval_every=50, other_lr=1e-2, warm_up=10),
    "laptop": Settings(),
    # A text of a megabyte is soon learnt by heart: rather several networks than a larger one, or a longer training.
    "small-text": Settings(networks=4, steps=2000),
    "gpu": Settings(
        hidden=1024,
        dropout=0.5,
        batch=128,
        sequence=128,
        steps=6000,
        lr=0.02,
        decay=0.08,
        other_lr=2e-3,
        warm_up=100,
    ),
}


class Learner:
    """The network while it learns: its optimizers, and the memory that each part of the batch carries along.

    Muon moves the recurrent layers' matrices as far in every direction that a step has
    (https://kellerjordan.github.io/posts/muon), and so learns more from it; AdamW has the other weights.

    On a processor every thread learns from a share of the batch. Cutting each small product of matrices between threads
    instead, as torch does by itself, is slower, and far slower where other programs want the cores too.
    """

    def __init__(self, s: Settings, vocabulary: int, *, device: torch.device, seed: int, threads: int = 1) -> None:
        self.s, self.device, self.seed = s, device, seed
        self.shape: dict[str, Any] = {"vocabulary": vocabulary, "cell": s.cell, "hidden": s.hidden, "layers": s.layers}
        self.shape |= {"embedding": s.embedding, "dropout": s.dropout}
        self.model = CharRNN(**self.shape).to(device)
        self.weights = list(self.model.parameters())
        matrices = [weight for weight in self.model.layers.parameters() if weight.ndim == 2]
        others = [weight for weight in self.weights if all(weight is not matrix for matrix in matrices)]
        self.optimizers: list[torch.optim.Optimizer] = [
            *(Muon([matrix], lr=s.lr, weight_decay=s.decay) for matrix in matrices),
            torch.optim.AdamW(others, lr=s.other_lr, betas=(0.9, 0.99), weight_decay=s.other_decay),
        ]
        self.bfloat16 = False
        self.shares = threads if device.type == "cpu" else 1
        self.threads = ThreadPoolExecutor(self.shares, initializer=torch.set_num_threads, initargs=(1,))
        self.memories: list[Memory | None] = [None] * self.shares

    def step(self, inputs: Tensor, targets: Tensor, *, number: int, pace: float) -> float:
        """Learn from one batch, (sequence, batch) each, at this share of the rates; its loss in nats a character."""
        parts = zip(range(self.shares), inputs.chunk(self.shares, 1), targets.chunk(self.shares, 1), strict=False)
        learnt = list(self.threads.map(lambda part: self._learn(number, *part), parts))
        for weight, *gradients in zip(self.weights, *(gradients for _, gradients in learnt), strict=True):
            weight.grad = torch.stack(gradients).sum(0)
        torch.nn.utils.clip_grad_norm_(self.weights, self.s.clip)
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * pace
        list(self.threads.map(lambda optimizer: optimizer.step(), self.optimizers))
        return sum(loss for loss, _ in learnt)

    def glance(self) -> None:
        """What a step has the device do with the network, on few characters, to no effect."""
        ids = torch.zeros((8, max(1, self.s.batch // self.shares)), dtype=torch.long, device=self.device)
        logits, _ = self.model(ids)
        torch.autograd.grad(loss_of(logits, ids), self.weights)

    def _learn(self, number: int, share: int, inputs: Tensor, targets: Tensor) -> tuple[float, tuple[Tensor, ...]]:
        """One share's loss and gradients, weighed by its size. Its random numbers follow from step and share."""
        rng = torch.Generator(self.device).manual_seed((self.seed * 1_000_003 + number) * 1024 + share)
        memory = self._remembered(share, inputs.shape[1], rng)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
            logits, memory = self.model(inputs.to(self.device), memory, rng)
            loss = loss_of(logits, targets.to(self.device)) * (inputs.shape[1] / self.s.batch)
        self.memories[share] = tuple(tuple(part.detach() for part in layer) for layer in memory)
        return loss.item(), torch.autograd.grad(loss, self.weights)

    def _remembered(self, share: int, places: int, rng: torch.Generator) -> Memory | None:
        """A share's memory, now and then emptied: what has never begun to read would not know how to."""
        kept = torch.rand((1, places, 1), generator=rng, device=self.device) >= self.s.forget
        before = self.memories[share]
        return tuple(tuple(part * kept for part in layer) for layer in before) if before else None

    def forget(self) -> None:
        """Begin with an empty memory."""
        self.memories = [None] * self.shares

    def state_dict(self) -> State:
        """The optimizers, the memory of the whole batch, however many shares it is in, and in what is computed."""
        held = [memory for memory in self.memories if memory is not None]
        memory = [[torch.cat(parts, 1) for parts in zip(*layer, strict=True)] for layer in zip(*held, strict=True)]
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return {"optimizers": optimizers, "memory": memory, "bfloat16": self.bfloat16}

    def load_state_dict(self, state: State) -> None:
        self.bfloat16 = state["bfloat16"] and bfloat16_works(self.device, self.glance)
        if state["bfloat16"] and not self.bfloat16:
            print("this run was computed in bfloat16, which this device cannot: it goes on in float32", flush=True)
        for optimizer, held in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        self.forget()
        cut = [[part.to(self.device).chunk(self.shares, 1) for part in layer] for layer in state["memory"]]
        for share in range(len(cut[0][0]) if cut else 0):
            self.memories[share] = tuple(tuple(part[share] for part in layer) for layer in cut)


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] in (["sample"], ["evaluate"]):
        use.main(argv)
        return
    common, s = parse(PRESETS, doc=__doc__, prog="char_rnn", argv=argv)
    limit_threads(common.threads)
    seed_everything(common.seed)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    train(run, s, device=pick_device(common.device), seed=common.seed)


def make_learners(s: Settings, vocabulary: int, *, device: torch.device, seed: int) -> list[Learner]:
    """A learner for each network, each begun elsewhere. From here on threads share the batch out, not the products."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    learners = [Learner(s, vocabulary, device=device, seed=seed + i, threads=threads) for i in range(s.networks)]
    if s.precision == "bfloat16" and not bfloat16_works(device, learners[0].glance):
        raise SystemExit(f"this {device} cannot compute such a network in bfloat16: leave --precision out")
    bfloat16 = s.precision == "bfloat16" or (s.precision == "auto" and bfloat16_is_faster(device, learners[0].glance))
    for learner in learners:
        learner.bfloat16 = bfloat16
    return learners


def train(run: Run, s: Settings, *, device: torch.device, seed: int) -> None:
    """Train to the end: of the steps, of the time, or when asked to stop."""
    text = read_text(s.data)
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    train, val, test = (ids[part] for part in split_in_order(len(ids), (0.88, 0.02, 0.10)))
    streams = Streams(train, batch=s.batch, sequence=s.sequence, seed=seed)
    learners = make_learners(s, len(vocabulary.characters), device=device, seed=seed)
    model = Committee(learner.model for learner in learners)
    recent: list[float] = []  # training losses since the last line
    often_at_first = [s.eval_every // 2**n for n in range(1, 5)]
    kinds = {"networks": s.networks, "shape": learners[0].shape, "characters": vocabulary.characters}
    kept: State = {"settings": {**asdict(s), "seed": seed}, **kinds}
    parts: dict[str, Stateful] = {"model": model, "streams": streams}
    parts |= {f"learner{i}": learner for i, learner in enumerate(learners)}
    size = sum(weight.numel() for weight in model.parameters())
    if state := run.resume(kept["settings"]):
        if any(state.get(kind) != kinds[kind] for kind in kinds):
            raise SystemExit("that checkpoint is of a network of another shape, or of a text with other characters")
        run.restore(state, **parts)
        recent = state["recent"]
    what = f"{len(ids):,} characters of {len(vocabulary.characters)} kinds; {size:,} weights"
    print(f"{what}; {device}, {'bfloat16' if learners[0].bfloat16 else 'float32'}", flush=True)

    def checkpoint(**more: object) -> None:
        run.save("checkpoint.pt", run.capture(**parts, **kept, recent=recent, step=streams.step, **more))

    def sample(name: str) -> str:
        prime = vocabulary.encode(s.prime) if set(s.prime) & set(vocabulary.characters) else ids[:1]
        written = write(model, prime, length=s.sample, temperature=s.temperature, seed=seed)
        run.text(f"samples/{name}.txt", vocabulary.decode(written))
        return vocabulary.decode(written)

    while streams.step < s.steps and not run.out_of_time and not run.stopping:
        done = max(streams.step / s.steps, run.time_used)  # by steps; where time is limited, by what comes first
        pace = min(1.0, (streams.step + 1) / s.warm_up) * 0.5 * (1 + math.cos(math.pi * done))
        before = streams.epoch
        inputs, targets, anew = streams.next()
        for learner in learners if anew else []:
            learner.forget()
        each = [learner.step(inputs, targets, number=streams.step, pace=pace) for learner in learners]
        recent.append(sum(each) / len(each))

        for mark in SAMPLE_AT:
            if before < mark <= streams.epoch:
                sample(f"epoch-{mark:05.2f}")
        if streams.step % s.eval_every == 0 or streams.step in often_at_first or streams.step == s.steps:
            losses = {"train": sum(recent) / len(recent), "val": nats(model, val, streams=len(val) // 1000 + 1)}
            run.log(step=streams.step, epoch=streams.epoch, losses=losses, seconds=round(run.elapsed_s, 1))
            recent.clear()
            checkpoint()

    if run.stopping:
        checkpoint()
        print(f"stopped and saved at step {streams.step}; the same command goes on from here")
        return
    held_out = {"val": val, "test": test}
    losses = {name: nats(model, part, streams=len(part) // 20_000 + 1) for name, part in held_out.items()}
    run.log(step=streams.step, epoch=streams.epoch, losses=losses, seconds=round(run.elapsed_s, 1))
    checkpoint(finished=True)
    sample("last")
    counted = [counting_nats(train, test, context=n) for n in range(3) if len(vocabulary.characters) ** (n + 1) < 1e7]
    run.text("report.txt", report(run, s, epochs=streams.epoch, losses=losses, counted=counted))
    run.figure("loss.png", loss_curve(run.metrics, unit="nats a character"))
    print("\n" + (run.outputs / "report.txt").read_text())


def report(run: Run, s: Settings, *, epochs: float, losses: dict[str, float], counted: list[float]) -> str:
    """What came of it, beside what mere counting predicts, and how the writing grew."""
    lines = [f"nats a character on the last tenth of the text, after {epochs:.2f} epochs, {run.elapsed_s:.0f} s"]
    names = ("how often each character comes", "what follows each character", "what follows each two characters")
    lines += [f"  counting {name:33}{nats:.4f}" for name, nats in zip(names, counted, strict=False)]
    network = f"{s.layers} × {s.hidden} {s.cell.upper()}" + (f", {s.networks} of them" if s.networks > 1 else "")
    lines += [f"  {network:42}{losses['test']:.4f}"]
    for name in [f"epoch-{mark:05.2f}" for mark in SAMPLE_AT] + ["last"]:
        path = run.outputs / "samples" / f"{name}.txt"
        if path.exists():
            lines += ["", f"--- {name.replace('-', ' ')}, temperature {s.temperature}", path.read_text().strip("\n")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
