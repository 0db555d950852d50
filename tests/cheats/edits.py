"""Edits of a candidate that do not depend on how its files are written: code at their end, which wraps what is there.

    Edit    code for the end of files, text replaced in the recipe, new files
    write   carries one out in a worktree, for either framework

The model's code sees its framework as `xp`, so that one text is an edit of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch.data.prepared import Prepared

PRELUDE = {"mlx": '''
import numpy as np
class xp:
    exp, log, tanh, sigmoid, abs, round, sign, where, einsum, maximum, stop, zeros_like, ones_like = (
        mx.exp, mx.log, mx.tanh, mx.sigmoid, mx.abs, mx.round, mx.sign, mx.where, mx.einsum, mx.maximum,
        mx.stop_gradient, mx.zeros_like, mx.ones_like)
    cat = staticmethod(lambda xs, axis: mx.concatenate(xs, axis))
    cumsum = staticmethod(lambda x, axis: mx.cumsum(x, axis))
    softmax = staticmethod(lambda x: mx.softmax(x, axis=-1))
    logsumexp = staticmethod(lambda x: mx.logsumexp(x, axis=-1))
    max = staticmethod(lambda x: x.max(axis=-1))
    arange = staticmethod(lambda n, like: mx.arange(n))
    one_hot = staticmethod(lambda t, size: (mx.arange(size) == t[..., None]).astype(mx.float32))
    number = staticmethod(lambda x: x.astype(mx.float32))
    numpy = staticmethod(lambda x: np.array(x))
    array = staticmethod(lambda a, like: mx.array(a))
''', "cpu": '''
import numpy as np
class xp:
    exp, log, tanh, sigmoid, abs, round, sign, where, einsum, zeros_like, ones_like = (
        torch.exp, torch.log, torch.tanh, torch.sigmoid, torch.abs, torch.round, torch.sign, torch.where, torch.einsum,
        torch.zeros_like, torch.ones_like)
    maximum = staticmethod(lambda x, least: x.clamp_min(least))
    stop = staticmethod(lambda x: x.detach())
    cat = staticmethod(lambda xs, axis: torch.cat(xs, axis))
    cumsum = staticmethod(lambda x, axis: torch.cumsum(x, axis))
    softmax = staticmethod(lambda x: torch.softmax(x, -1))
    logsumexp = staticmethod(lambda x: torch.logsumexp(x, -1))
    max = staticmethod(lambda x: x.amax(-1))
    arange = staticmethod(lambda n, like: torch.arange(n, device=like.device))
    one_hot = staticmethod(lambda t, size: (torch.arange(size, device=t.device) == t[..., None]).float())
    number = staticmethod(lambda x: x.float())
    numpy = staticmethod(lambda x: x.cpu().numpy())
    array = staticmethod(lambda a, like: torch.as_tensor(a, device=like.device))
'''}
BOTH = '''
def past(x, n):
    """What stood n places earlier; zero at the beginning."""
    return xp.cat([xp.zeros_like(x[:, :n]), x[:, :-n]], 1)
def ahead(x, n):
    """What stands n places later; the beginning at the end."""
    return xp.cat([x[:, n:], x[:, :n]], 1)
'''
FRAMEWORK = {"mlx": "mlx", "cpu": "torch"}
BACKENDS = ("mlx", "cpu")


@dataclass(frozen=True)
class Edit:
    """A complete edit. Code for `model`, `optim`, `params` and `schedule` goes to the end of these files; where a
    framework needs its own, the text is by backend."""

    model: str = ""
    optim: str | Mapping[str, str] = ""
    params: str = ""
    schedule: str = ""
    recipe: Mapping[str, str] = field(default_factory=dict)  # text in it -> what stands there instead
    files: Callable[[Prepared], Mapping[str, bytes | str]] = lambda text: {}  # new ones; a str: where a link leads


def write(edit: Edit, folder: Path, backend: str, text: Prepared, given: Mapping[str, object]) -> None:
    """`folder` is backends/gpt/ of a worktree; names in `given` are constants of the model's file."""
    framework = FRAMEWORK[backend]
    constants = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    optim = edit.optim if isinstance(edit.optim, str) else edit.optim[backend]
    added = {f"{framework}_model.py": edit.model and PRELUDE[backend] + BOTH + constants + edit.model,
             f"{framework}_optim.py": optim, "params.py": edit.params, "schedule.py": edit.schedule}
    for name, code in added.items():
        if code:
            (folder / name).write_text((folder / name).read_text() + "\n\n" + code)
    recipe = (folder / "recipe.toml").read_text()
    for old, new in edit.recipe.items():
        assert recipe.count(old) == 1, f"{old!r} stands {recipe.count(old)} times in the recipe"
        recipe = recipe.replace(old, new)
    (folder / "recipe.toml").write_text(recipe)
    for name, content in edit.files(text).items():
        if isinstance(content, str):
            (folder / name).symlink_to(content)
        else:
            (folder / name).write_bytes(content)
