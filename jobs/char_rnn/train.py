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
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jobs.char_rnn import use
from jobs.char_rnn.model import CELLS, CharRNN, Memory, loss_of, nats, write
from jobs.char_rnn.text import Streams, Vocabulary, read_text
from jobs.common.args import option, parse
from jobs.common.data import split_in_order
from jobs.common.device import autocast_for, limit_threads, pick_device, seed_everything
from jobs.common.plots import loss_curve
from jobs.common.run import Run

SAMPLE_AT = (0.03, 0.17, 0.20, 0.37, 11.5)  # epochs: noise, then word shapes, then names and lines


@dataclass(frozen=True)
class Settings:
    data: str = option("", "text file to learn from; without one, all of Shakespeare's plays")
    cell: str = option("lstm", "kind of recurrent layer", choices=sorted(CELLS))
    layers: int = option(1, "recurrent layers")
    hidden: int = option(256, "units a layer")
    embedding: int = option(64, "numbers a character is turned into")
    dropout: float = option(0.0, "share of units that are silent in a training step")
    batch: int = option(64, "places of the text read at once")
    sequence: int = option(64, "characters read a step, which errors flow back through")
    steps: int = option(3000, "steps to train")
    rate: float = option(4e-3, "learning rate at its height")
    warm_up: int = option(50, "steps until the learning rate is there")
    weight_decay: float = option(0.01, "pull of the weights towards zero")
    clip: float = option(1.0, "longest step of the gradient")
    eval_every: int = option(250, "steps between validations and checkpoints")
    prime: str = option("\n", "what samples begin after")
    temperature: float = option(0.8, "how daring samples are: 0 takes the likeliest character, 1 draws as learnt")
    sample: int = option(500, "characters a sample")


PRESETS = {
    "smoke": Settings(hidden=64, batch=32, sequence=32, steps=150, eval_every=50, rate=1e-2, warm_up=10),
    "laptop": Settings(),
    "gpu": Settings(layers=2, hidden=1024, embedding=128, dropout=0.5, batch=128, sequence=128, steps=6000, rate=2e-3),
}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["sample"], ["evaluate"]):
        use.main(argv)
        return
    common, s = parse(PRESETS, doc=__doc__, prog="char_rnn", argv=argv)

    # --- where, and from what
    limit_threads(common.threads)
    seed_everything(common.seed)
    device = pick_device(common.device)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    text = read_text(s.data)
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    train, val, test = (ids[part] for part in split_in_order(len(ids), (0.88, 0.02, 0.10)))
    streams = Streams(train, batch=s.batch, sequence=s.sequence, seed=common.seed)

    # --- what learns
    shape: dict[str, Any] = {"vocabulary": len(vocabulary.characters), "cell": s.cell, "hidden": s.hidden}
    shape |= {"layers": s.layers, "embedding": s.embedding, "dropout": s.dropout}
    model = CharRNN(**shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.rate, betas=(0.9, 0.99), weight_decay=s.weight_decay)
    memory: Memory | None = None
    recent: list[float] = []  # training losses since the last line
    size = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(ids):,} characters, {len(vocabulary.characters)} kinds; {size:,} weights; {device}", flush=True)

    # --- go on where an earlier attempt was
    settings = {**asdict(s), "seed": common.seed}
    if state := run.resume(settings):
        run.restore(state, model=model, optimizer=optimizer, streams=streams)
        memory, recent = tuple(part.to(device) for part in state["memory"]) or None, state["recent"]

    def checkpoint(**more: object) -> None:
        kept = {"memory": memory or (), "recent": recent, "settings": settings, "shape": shape, **more}
        kept |= {"step": streams.step, "characters": vocabulary.characters}
        run.save("checkpoint.pt", run.capture(model=model, optimizer=optimizer, streams=streams, **kept))

    def sample(name: str) -> str:
        prime = vocabulary.encode(s.prime)
        ids = write(model, prime, length=s.sample, temperature=s.temperature, seed=common.seed)
        run.text(f"samples/{name}.txt", vocabulary.decode(ids))
        return vocabulary.decode(ids)

    # --- train
    while streams.step < s.steps and not run.out_of_time and not run.stopping:
        done = max(streams.step / s.steps, run.time_used)  # by steps; where time is limited, by what comes first
        for group in optimizer.param_groups:
            group["lr"] = s.rate * min(1.0, (streams.step + 1) / s.warm_up) * 0.5 * (1 + math.cos(math.pi * done))

        inputs, targets, anew = streams.next()
        with autocast_for(device):
            logits, memory = model(inputs.to(device), None if anew else memory)
            loss = loss_of(logits, targets.to(device))
        memory = tuple(part.detach() for part in memory)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.clip)
        optimizer.step()
        recent.append(loss.item())

        before, epoch = (streams.step - 1) / streams.per_epoch, streams.epoch
        for mark in SAMPLE_AT:
            if before < mark <= epoch:
                sample(f"epoch-{mark:05.2f}")
        if streams.step % s.eval_every == 0 or streams.step == s.steps:
            losses = {"train": sum(recent) / len(recent), "val": nats(model, val, streams=16)}
            run.log(step=streams.step, epoch=epoch, losses=losses, seconds=round(run.elapsed_s, 1))
            recent = []
            checkpoint()

    # --- the end: asked to stop, or the final word
    if run.stopping:
        checkpoint()
        print(f"stopped and saved at step {streams.step}; the same command goes on from here")
        return
    losses = {"val": nats(model, val), "test": nats(model, test)}
    run.log(step=streams.step, epoch=streams.epoch, losses=losses, seconds=round(run.elapsed_s, 1))
    checkpoint(finished=True)
    run.figure("loss.png", loss_curve(run.metrics, unit="nats a character"))
    print(f"\n--- a sample, temperature {s.temperature}\n{sample('last')}")


if __name__ == "__main__":
    main()
