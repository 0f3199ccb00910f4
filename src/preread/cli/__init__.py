"""The command line: one call a command, results on stdout, progress and errors on stderr."""

from preread.cli import (
    certify,
    chat,
    compare,
    doctor,
    documents,
    evaluate,
    measures,
    measures_cepe,
    models,
    questions,
    quiz,
    report,
    setup,
    training,
)
from preread.cli.app import app
from preread.cli.entry import main

__all__ = [
    "app",
    "certify",
    "chat",
    "compare",
    "doctor",
    "documents",
    "evaluate",
    "main",
    "measures",
    "measures_cepe",
    "models",
    "questions",
    "quiz",
    "report",
    "setup",
    "training",
]
