"""The dashboard: a study as a web page on this machine's loopback address, for whoever has its token.

    server   HTTP: who may ask, headers, routes, and the stream of changes
    pages    what each address shows
    steer    what a person changes there: guidance and queue
"""
