"""`python -m jobs.char_rnn`: train; with `sample` or `evaluate`, use what was trained."""

from jobs.char_rnn.train import main

main()
