"""Whoever proposes the next experiment: see `base` for the contract, `playbook` for the one that needs no key."""
