"""The loop: propose, gate, train, score, decide, record."""
