"""Losses: points, the formats in which programs print them, the reader of a log, and where a run's points come from.

A format of a log is a row in `formats`; another kind of source (an event file) is a class in `sources`.
"""
