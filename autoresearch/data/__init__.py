"""Text to train on and to be scored on: trusted code, NumPy only.

    corpus      what text there is: files, folders, the standard library's source
    published   corpora that are downloaded: tinystories, climbmix
    readers     one file -> its documents
    hub         files of the Hugging Face hub
    spool       a corpus on disk while it is being divided
    splits      documents -> train, dev, val, confirm, holdout
    yardstick   the rows that are scored, and their order
    overlap     how many of them also stand in train
    tokenizer   bytes <-> token ids
    prepare     all of it into the cache, at once or not at all
    disk        files written whole, read in pieces
    manifest    what a prepared set holds, as values
    prepared    reading a prepared set
    batches     a token stream -> training rows
    text        UTF-8 boundaries and character counts
"""
