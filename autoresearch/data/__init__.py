"""Text to train on and to be scored on: trusted code, NumPy only.

    corpus      where text comes from: files, folders, the standard library's source
    splits      documents -> train, dev, val, confirm, holdout
    yardstick   the rows that are scored, and their order
    tokenizer   bytes <-> token ids
    prepare     all of it into the cache, at once or not at all
    manifest    what a prepared set holds, as values
    prepared    reading a prepared set
    batches     a token stream -> training rows
    text        UTF-8 boundaries and character counts
"""
