"""Deep dreams and style transfer: what a trained convnet sees, turned back into pictures.

    python -m jobs.dream.train                                   # a dream, a picture in another's style, and in reverse
    python -m jobs.dream.train --only dream --picture my.jpg --layer 11
    python -m jobs.dream.train --only style --content my.jpg --style other.jpg

Here the network does not learn: its weights stay, and the gradient changes the picture. A dream climbs: whatever a
layer sees a little of becomes more (in octaves, from coarse to fine). Style transfer descends: the content of one
picture, what a deep layer sees and where; the style of another, which features go together anywhere (Gram matrices,
arXiv 1508.06576).

Losses in the log are relative to the picture that was begun with, so they begin at 1. Validation is the same measure
on the picture's mirror image, which no gradient was taken of: what is there is seen from the other side too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from jobs.common.args import option, parse
from jobs.common.device import autocast_for, limit_threads, pick_device, seed_everything
from jobs.common.plots import loss_curve
from jobs.common.run import Run, State
from jobs.dream.model import EfficientNetLite0, load_network
from jobs.dream.pictures import load_picture, resize, side_by_side, to_image


@dataclass(frozen=True)
class Settings:
    only: str = option("all", "what to make", choices=["all", "dream", "style", "reverse"])
    side: int = option(288, "pixels of a picture's shorter side")
    picture: str = option("pagoda", "what to dream of: a photograph's name or a file")
    layer: int = option(10, "layer to enhance: 1 (edges) to 16 (objects)", most=16)
    octaves: int = option(4, "sizes to dream in, each 1.4 times the last")
    climb: int = option(20, "steps per size")
    stride: float = option(0.009, "approximate change of a pixel per step")
    content: str = option("cat", "picture for the content: a photograph's name or a file")
    style: str = option("tissue", "picture for the style: a photograph's name or a file")
    descend: int = option(180, "steps of style transfer")
    lr: float = option(0.05, "approximate change of a pixel per step of style transfer")
    content_weight: float = option(1.0, "weight of the content loss")
    smoothness: float = option(0.02, "weight of the noise penalty (total variation)")
    every: int = option(10, "steps between log lines and checkpoints")


PRESETS = {
    "smoke": Settings(side=96, octaves=2, climb=4, descend=12, every=4),
    "laptop": Settings(),
    "gpu": Settings(side=768, octaves=7, climb=30, descend=600),
}
OCTAVE = 1.4
STYLE_LAYERS = (0, 1, 3, 5)
CONTENT_LAYER = 11


@dataclass
class Place:
    """Where a run is: pictures that are done, and the one in work."""

    done: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    stage: int = 0  # steps of the picture in work
    step: int = 0  # of all pictures
    picture: Tensor | None = None
    optimizer: State | None = None


class Studio:
    """One run of this job: the network, and the picture on the easel."""

    def __init__(self, run: Run, s: Settings, *, device: torch.device, seed: int) -> None:
        self.run, self.s, self.device, self.seed = run, s, device, seed
        self.network: EfficientNetLite0 = load_network(device)
        self.place = Place()

    @property
    def settings(self) -> State:
        return {**asdict(self.s), "seed": self.seed}

    def go_on(self, state: State) -> None:
        """Take up a checkpoint."""
        self.run.restore(state)
        self.place = Place(**state["place"])

    def save(self, *, finished: bool = False) -> None:
        place = {
            name: getattr(self.place, name) for name in ("done", "scores", "stage", "step", "picture", "optimizer")
        }
        kept = self.run.capture(settings=self.settings, place=place, step=self.place.step, finished=finished)
        self.run.save("checkpoint.pt", kept)

    def load(self, name: str) -> Tensor:
        return load_picture(name, self.s.side).to(self.device)

    def sees(self, x: Tensor, *layers: int) -> list[Tensor]:
        with autocast_for(self.device):
            return [seen.float() for seen in self.network.layers(x, layers)]

    def first_class(self, x: Tensor) -> int:
        """ImageNet's class that the network takes a picture for."""
        with torch.no_grad():
            return int(self.network(x).argmax())

    def tell(self, losses: dict[str, float], *, of: int, **more: float) -> None:
        """One line, and a checkpoint, now and then. Each picture is an epoch."""
        place = self.place
        if place.stage % self.s.every == 0 or place.stage == of or self.run.stopping:
            epoch = len(place.done) + place.stage / of
            self.run.log(step=place.step, epoch=epoch, losses=losses, **{k: round(v, 4) for k, v in more.items()})  # type: ignore[arg-type]
            self.save()

    def finish(self, name: str, x: Tensor, scores: dict[str, float]) -> None:
        """Off the easel."""
        place = self.place
        place.done[name], place.scores[name] = x.detach().cpu(), scores
        place.stage, place.picture, place.optimizer = 0, None, None
        self.keep(f"{name}.png", to_image(x))
        self.save()

    def keep(self, name: str, image: Image.Image) -> None:
        """A picture among the outputs, written aside and renamed."""
        aside = self.run.outputs / f".{name}.partial"
        image.save(aside, format="PNG", optimize=True)
        aside.replace(self.run.outputs / name)

    # ---- dreams

    def objective(self, x: Tensor) -> Tensor:
        """How much the layer sees: the mean square of what comes out of it."""
        return self.sees(x, self.s.layer)[0].square().mean()

    def dream(self) -> None:
        """From the smallest size to the largest: climb, then carry what was added over into the next size."""
        s, place, photograph = self.s, self.place, self.load(self.s.picture)
        height, width = photograph.shape[2:]
        sizes = [(round(height / OCTAVE**k), round(width / OCTAVE**k)) for k in reversed(range(s.octaves))]
        x = photograph if place.picture is None else place.picture.to(self.device)
        while place.stage < s.octaves * s.climb and not self.run.stopping:
            octave, within = divmod(place.stage, s.climb)
            base = resize(photograph, *sizes[octave])
            if within == 0:
                added = torch.zeros_like(base)
                if octave > 0:
                    added = resize(x - resize(photograph, *sizes[octave - 1]), *sizes[octave])
                x = base + added
            x = self.climb(x)
            place.stage, place.step, place.picture = place.stage + 1, place.step + 1, x.cpu()
            with torch.no_grad():
                gain = self.objective(x) / self.objective(base)
                mirrored = self.objective(x.flip(3)) / self.objective(base.flip(3))
            losses = {"train": 1 / gain.item(), "val": 1 / mirrored.item()}
            self.tell(losses, of=s.octaves * s.climb)
        if self.run.stopping:
            return
        with torch.no_grad():
            # The baseline: a change as large, without direction.
            size = (x - photograph).std()
            noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(self.device) * size
            start = self.objective(photograph)
            scores = {"gain": (self.objective(x) / start).item()}
            scores["noise"] = (self.objective((photograph + noise).clamp(0, 1)) / start).item()
        self.finish("dream", x, scores)

    def climb(self, x: Tensor) -> Tensor:
        """One step uphill, from where the picture is shifted a little: the network's own grid must not show."""
        down, right = torch.randint(-16, 17, (2,)).tolist()
        shifted = x.roll((down, right), dims=(2, 3)).requires_grad_()
        (slope,) = torch.autograd.grad(self.objective(shifted), shifted)
        slope = slope / (slope.abs().mean() + 1e-12)
        return (shifted.detach() + self.s.stride * slope).roll((-down, -right), dims=(2, 3)).clamp(0, 1)

    # ---- style

    def transfer(self, name: str, content: Tensor, style: Tensor) -> None:
        """Paint `content` as `style` is painted."""
        s, place = self.s, self.place
        with torch.no_grad():
            wanted = [gram(seen) for seen in self.sees(style, *STYLE_LAYERS)]
            views = {"train": content, "val": content.flip(3)}
            scenes = {view: self.sees(x, CONTENT_LAYER)[0] for view, x in views.items()}
            starts = {view: self.far(x, wanted) for view, x in views.items()}
        x = (content if place.picture is None else place.picture.to(self.device)).clone().requires_grad_()
        optimizer = torch.optim.Adam([x], lr=s.lr)
        if place.optimizer is not None:
            optimizer.load_state_dict(place.optimizer)
        while place.stage < s.descend and not self.run.stopping:
            optimizer.param_groups[0]["lr"] = s.lr * (1 - 0.9 * place.stage / s.descend)
            down, right = torch.randint(-8, 9, (2,)).tolist()  # or it fits the network's own grid
            painted = self.far(x.roll((down, right), dims=(2, 3)), wanted) / starts["train"]
            lost = F.mse_loss(self.sees(x, CONTENT_LAYER)[0], scenes["train"]) / scenes["train"].var()
            noise = (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
            (x.grad,) = torch.autograd.grad(painted + s.content_weight * lost * 0.1 + s.smoothness * noise, x)
            optimizer.step()
            with torch.no_grad():
                x.clamp_(0, 1)
                mirrored = self.far(x.flip(3), wanted) / starts["val"]
            place.stage, place.step = place.stage + 1, place.step + 1
            place.picture, place.optimizer = x.detach().cpu(), optimizer.state_dict()
            self.tell({"train": painted.item(), "val": mirrored.item()}, of=s.descend, content_lost=lost.item())
        if self.run.stopping:
            return
        with torch.no_grad():
            blend = (content + resize(style, *content.shape[2:])) / 2  # the baseline: one picture laid over the other
            lost = F.mse_loss(self.sees(x, CONTENT_LAYER)[0], scenes["train"]) / scenes["train"].var()
            scores = {"style": (self.far(x, wanted) / starts["train"]).item(), "content_lost": lost.item()}
            scores["blend"] = (self.far(blend, wanted) / starts["train"]).item()
            scores |= {
                "is": self.first_class(content),
                "seen": self.first_class(x),
                "blend_seen": self.first_class(blend),
            }
        self.finish(name, x, scores)

    def far(self, x: Tensor, wanted: list[Tensor]) -> Tensor:
        """The style loss: how far the Gram matrices are from those of the style, each relative to what it should be."""
        mine = [gram(seen) for seen in self.sees(x, *STYLE_LAYERS)]
        return torch.stack([F.mse_loss(a, b) / b.square().mean() for a, b in zip(mine, wanted, strict=True)]).sum()


def gram(seen: Tensor) -> Tensor:
    """Which features go together, wherever in the picture: (C, C)."""
    flat = seen[0].flatten(1)
    return flat @ flat.T / flat.shape[1]


def main() -> None:
    common, s = parse(PRESETS, doc=__doc__, prog="dream")
    limit_threads(common.threads)
    seed_everything(common.seed)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    studio = Studio(run, s, device=pick_device(common.device), seed=common.seed)
    state = run.resume(studio.settings)
    if state is not None:
        studio.go_on(state)
    wanted = [name for name in ("dream", "style", "reverse") if s.only in ("all", name)]
    for name in wanted:
        if name not in studio.place.done and not run.stopping:
            if name == "dream":
                studio.dream()
            elif name == "style":
                studio.transfer(name, studio.load(s.content), studio.load(s.style))
            else:  # what if we do it in reverse?
                studio.transfer(name, studio.load(s.style), studio.load(s.content))
    if run.stopping:
        return
    report = show(studio)
    studio.save(finished=True)
    print("\n".join(["", *report]))


def show(studio: Studio) -> list[str]:
    """Each picture beside what it was made of, and in numbers."""
    s, run, place = studio.s, studio.run, studio.place
    rows = []
    for name, x in place.done.items():
        score = place.scores[name]
        if name == "dream":
            made_of = [studio.load(s.picture)]
            rows.append(f"dream of {s.picture}: layer {s.layer} sees {score['gain']:.1f} times what it saw at first")
            rows.append(f"  noise of the same size: {score['noise']:.1f} times")
        else:
            names = (s.content, s.style) if name == "style" else (s.style, s.content)
            made_of = [studio.load(part) for part in names]
            rows.append(f"{name}, {names[0]} painted as {names[1]}: {score['style']:.1%} of the style loss at first")
            rows.append(f"  one laid over the other: {score['blend']:.1%}")
            kept = "still" if score["seen"] == score["is"] else "no longer"
            rows.append(f"  {kept} seen as what it is (class {score['is']}), content lost {score['content_lost']:.2f}")
        studio.keep(f"{name}_shown.png", side_by_side([part.cpu() for part in made_of] + [x], 180))
    run.figure("curve.png", loss_curve(run.metrics, unit="relative to the start", title="a picture is an epoch"))
    run.text("report.txt", "\n".join(rows) + "\n")
    return rows


if __name__ == "__main__":
    main()
