"""What one training run of any job prints and keeps, how it stops and how it goes on; `run.py` tells how it is used.

How a checkpoint is written is the subclass's: `run.Run` has torch's, `numpy_run.NumpyRun` has NumPy's.
"""

from __future__ import annotations

import io
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, Protocol

State = dict[str, Any]


class Stateful(Protocol):
    """Anything that can say what it is in and be put back into it: a model, an optimizer, `data.Batches`."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class BaseRun:
    """One run: its outputs folder, its metrics, its end.

    ``resume`` is a checkpoint's path, ``"auto"`` (the newest in ``outputs`` that this very run left unfinished) or
    ``"never"``. ``max_seconds`` counts from here, and what earlier attempts took counts too.
    """

    suffix = ""
    """A checkpoint's file name ends so."""

    def write_state(self, state: State, file: BinaryIO) -> None:
        """Write a checkpoint."""
        raise NotImplementedError

    def read_state(self, path: str | Path) -> State:
        """Read one. Raises SystemExit with one line where it cannot be read, or could run code here."""
        raise NotImplementedError

    def rng(self) -> State:
        """The state of every random number generator that is not a part of its own."""
        return {}

    def set_rng(self, rng: State) -> None:
        """Put them back into it."""

    def __init__(
        self, *, outputs: str | Path = "outputs", max_seconds: float | None = None, resume: str | Path = "auto"
    ) -> None:
        self.outputs = Path(outputs)
        try:
            self.outputs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"the outputs folder {outputs} cannot be made: {error.strerror}") from error
        for left in self.outputs.rglob(".*.partial"):  # by an attempt that was killed while it wrote
            left.unlink()
        self.max_seconds = max_seconds
        self.stopping = False
        self._resume = str(resume)
        given = os.environ.get("GPUCTL_METRICS")
        self._own_metrics = not given
        self.metrics = Path(given) if given else self.outputs / "metrics.jsonl"
        self._earlier_s = 0.0
        self._began = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._ask_to_stop)
            signal.signal(signal.SIGTERM, self._ask_to_stop)

    # ---- how it ends

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks: save and end. The second ends at once."""
        if self.stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.stopping = True
        os.write(1, b"\nstopping: saves first; once more ends at once\n")  # print() may be what was interrupted

    @property
    def elapsed_s(self) -> float:
        """Seconds of training so far, over every attempt of this run."""
        return self._earlier_s + time.monotonic() - self._began

    @property
    def out_of_time(self) -> bool:
        return self.max_seconds is not None and self.elapsed_s >= self.max_seconds

    @property
    def time_used(self) -> float:
        """How much of ``max_seconds`` is gone, from 0 to 1; 0 where there is no limit."""
        return min(1.0, self.elapsed_s / self.max_seconds) if self.max_seconds else 0.0

    # ---- what it tells

    def log(
        self,
        *,
        step: int,
        epoch: float,
        split: str = "train",
        loss: float | None = None,
        losses: Mapping[str, float] | None = None,
        **more: float | int | str,
    ) -> None:
        """Print one line a person reads and append one JSON line for each split to the metrics.

        One ``split`` with its ``loss``, or several in ``losses`` (``{"train": 1.93, "val": 1.98}``).
        """
        points = dict(losses) if losses is not None else {split: float("nan") if loss is None else loss}
        words = [f"step {step}", f"epoch {epoch:.2f}", *(f"{name} loss {value:.4f}" for name, value in points.items())]
        words += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in more.items()
        ]
        print("  ".join(words), flush=True)
        now = time.time()
        lines = [
            json.dumps({"step": step, "epoch": round(epoch, 6), "split": name, **_finite(value), "time": now, **more})
            for name, value in points.items()
        ]
        self.metrics.parent.mkdir(parents=True, exist_ok=True)
        with self.metrics.open("ab", buffering=0) as file:  # one write: a reader never sees part of a line
            file.write(("\n".join(lines) + "\n").encode())

    def text(self, name: str, text: str) -> Path:
        """Keep a text that people would look at."""
        return self._write(name, lambda file: file.write(text.encode()))

    def figure(self, name: str, figure: Any) -> Path:
        """Keep a matplotlib figure; the format is the name's ending."""
        image = io.BytesIO()
        figure.savefig(image, format=Path(name).suffix[1:], bbox_inches="tight")
        return self._write(name, lambda file: file.write(image.getvalue()))

    # ---- what it keeps, and how it goes on

    def save(self, name: str, state: State) -> Path:
        """Keep ``state`` as a checkpoint: whoever finds the file finds it whole, whenever this process ends."""
        return self._write(name, lambda file: self.write_state({**state, "elapsed_s": self.elapsed_s}, file))

    def capture(self, **parts: Any) -> State:
        """The state of every part (models, optimizers, `Batches`; numbers and arrays as they are) and of the RNGs."""
        kept = {name: part.state_dict() if hasattr(part, "state_dict") else part for name, part in parts.items()}
        return {**kept, "rng": self.rng()}

    def restore(self, state: State, **parts: Stateful) -> None:
        """Put every part, the RNGs and the clock (but of a run that had finished) back to where `capture` saw them."""
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.set_rng(state["rng"] if "rng" in state else state["chance"])  # as an early version called it
        self._earlier_s = 0.0 if state.get("finished") else float(state["elapsed_s"])

    def resume(self, settings: Mapping[str, Any] | None = None) -> State | None:
        """What to go on from, or None to begin anew; says which.

        In this order: the path given as ``resume``, what ``GPUCTL_RESUME`` names, and the newest checkpoint in
        ``outputs``, if it is unfinished (saved without ``finished=True``) and was saved with the same ``settings``.
        """
        named = self._resume if self._resume not in ("auto", "never") else os.environ.get("GPUCTL_RESUME", "")
        if named and self._resume != "never":
            state = self.read_state(named)
            print(f"going on from {named} (step {state.get('step', '?')})", flush=True)
            return state
        found = self._newest() if self._resume == "auto" else None
        if found is not None:
            state = self.read_state(found)
            why = "is of a finished run" if state.get("finished") else ""
            if settings is not None and state.get("settings") != dict(settings):
                why = "is of a run with other settings"
            print(f"{found} {why}: beginning anew" if why else f"going on from {found} (step {state.get('step', '?')})")
            if not why:
                return state
        if self._own_metrics:
            self.metrics.unlink(missing_ok=True)
        return None

    def _newest(self) -> Path | None:
        there = sorted(self.outputs.glob(f"*{self.suffix}"), key=lambda path: path.stat().st_mtime_ns)
        return there[-1] if there else None

    def _write(self, name: str, write: Callable[[io.BufferedWriter], object]) -> Path:
        """Write aside, on to the disk, then rename: the name always holds a whole file."""
        path = self.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.partial")
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        return path


def _finite(loss: float) -> dict[str, float | str | None]:
    """JSON has no NaN: null, and beside it the name of what it was."""
    return {"loss": loss} if math.isfinite(loss) else {"loss": None, "nonfinite": str(float(loss))}
