"""What was measured, for people: the scoreboard and every evaluation as one page and as Markdown."""
