"""What a trained network is good for: `sample` writes, `evaluate` says how well it predicts a text."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jobs.char_rnn.model import nats, rebuild, write
from jobs.char_rnn.text import Vocabulary, read_text
from jobs.common.device import limit_threads, pick_device
from jobs.common.run import load


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="char_rnn", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("checkpoint", help="what training saved: outputs/checkpoint.pt")
    both.add_argument("--device", help="cuda, mps or cpu (default: the fastest available)")
    both.add_argument("--threads", type=int, help="processor threads")
    sample = verbs.add_parser("sample", parents=[both], help="write text")
    sample.add_argument("--prime", default="\n", help="text that the sample continues (default: a new line)")
    sample.add_argument("--length", type=int, default=1000, help="characters (1000)")
    sample.add_argument("--temperature", type=float, default=0.8, help="0: the likeliest, 1: samples as learnt (0.8)")
    sample.add_argument("--seed", type=int, default=1337, help="random seed (1337)")
    evaluate = verbs.add_parser("evaluate", parents=[both], help="nats per character over a whole text")
    evaluate.add_argument("--data", required=True, help="a text file")
    given = parser.parse_args(argv)

    limit_threads(given.threads)
    state = load(given.checkpoint)
    if not {"networks", "shape", "characters"} <= state.keys():
        raise SystemExit(f"{given.checkpoint} is no checkpoint of char_rnn, or an older version's")
    vocabulary = Vocabulary(state["characters"])
    model = rebuild(state).to(pick_device(given.device))
    if given.verb == "sample":
        prime = vocabulary.encode(given.prime)
        if not len(prime):
            raise SystemExit(f"the network knows no character of --prime {given.prime!r}")
        written = write(model, prime, length=given.length, temperature=given.temperature, seed=given.seed)
        print(given.prime.lstrip("\n") + vocabulary.decode(written))
    else:
        text = read_text(given.data)
        ids = vocabulary.encode(text)
        if len(ids) < 2:
            raise SystemExit(f"{given.data}: nothing to predict in {len(ids)} characters")
        if len(ids) < len(text):
            print(f"{len(text) - len(ids):,} characters that the network has never seen are left out")
        print(f"{nats(model, ids):.4f} nats a character over {len(ids):,} characters, step {state['step']}")


if __name__ == "__main__":
    main()
