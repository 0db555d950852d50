"""Write text with the model in this folder: python generate.py "Once upon a time" [cpu, cuda or mlx]"""

import json
import sys
from pathlib import Path

import numpy as np
import tiktoken
from safetensors.numpy import load_file

import backends  # the folder's own: the code that the weights were trained with
from backends.recipe import load

prompt, device = (*sys.argv[1:], *("", "cpu")[len(sys.argv) - 1:])[:2]
here = Path(__file__).parent
vocabulary = json.loads((here / "vocabulary.json").read_text())
tokens = [bytes.fromhex(token) for token in vocabulary["tokens"]]
encoding = tiktoken.Encoding("model", pat_str=vocabulary["pattern"], special_tokens={},
                             mergeable_ranks={token: i for i, token in enumerate(tokens)})
recipe = load(here / "recipe.toml").replace({"runtime.compile": False, "runtime.precision": "float32"})
try:
    backend = backends.load(device)
except (ValueError, RuntimeError) as e:  # there is no such one, or not on this machine
    print(e, file=sys.stderr)
    sys.exit(2)
state = backend.init(recipe, len(tokens) + 1, load_file(here / "model.safetensors"))
ids, rng = [vocabulary["bos"]], np.random.default_rng(1)
ids += encoding.encode_ordinary(prompt) if len(tokens) > 256 else prompt.encode()  # 256: every byte is a token
for _ in range(200):
    logits_V = backend.logits(state, np.array([ids[-recipe.model.seq_len:]]))[0, -1].astype(np.float64)
    logits_V[vocabulary["bos"]] = -np.inf  # the end of a document
    weights_V = np.exp((logits_V - logits_V.max()) / 0.8)
    ids.append(int(rng.choice(len(weights_V), p=weights_V / weights_V.sum())))
print(prompt + b"".join(tokens[i] for i in ids[-200:]).decode(errors="replace"))
