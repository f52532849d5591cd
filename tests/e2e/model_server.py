"""A real model server (llama.cpp's own, from the package xllamacpp) with the tiny model: `python -m tests.e2e.model_server FILE`.

It runs in a process of its own, prints its address once it listens, and goes on until it is ended.
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

from tests.fakes.tiny_gguf import CONTEXT_TOKENS


def main(model: str) -> None:
    wanted = xllamacpp.CommonParams()
    wanted.model.path = model
    wanted.model_alias = {"tiny"}
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.n_parallel = 2
    wanted.n_ctx = CONTEXT_TOKENS * wanted.n_parallel
    wanted.warmup = False
    for threads in (wanted.cpuparams, wanted.cpuparams_batch):
        threads.n_threads, threads.poll = 1, 0  # threads that wait for each other by spinning are slow on a busy machine
    wanted.embedding = True
    wanted.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    server = xllamacpp.Server(wanted)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[1])
