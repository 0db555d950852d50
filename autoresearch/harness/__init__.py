"""One trial: processes, clock, text, score. Trusted, except for trial.py, logits_server.py and measure.py,
which run in a tree of their own beside the candidate's code."""
