"""The public verbs that write pruned models to files and read them again."""

import os
from typing import Any

from .api import masks_of, plan_of
from .errors import PlanError, UnsupportedModelError
from .frontends import frontend_of


def save(slim: Any, path: "str | os.PathLike[str]") -> None:
    """Write the weights of a pruned module and its plan (or masks) to a .safetensors file, whole or not at all.

    No pickle is involved.

    A pruned ONNX model is written to an .onnx file, with its plan inside and its weights beside it where they are above
    2 GB or lay beside the origin.

    **Raises:** `PlanError` where the module was not made by graphprune.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    graphprune.save(graphprune.optimize(net, sparsity=0.5), "slim.safetensors")
    ```
    """
    if plan_of(slim) is None and masks_of(slim) is None:
        raise PlanError("this model was not made by graphprune; its plan is not known, so it could not be loaded again")
    frontend = frontend_of(slim)
    if not hasattr(frontend, "save_weights"):
        raise UnsupportedModelError(
            "save works on modules and ONNX models; an ExportedProgram is saved with torch.export.save, a tvm.IRModule "
            "with tvm.ir.save_json"
        )
    frontend.save_weights(slim, path)


def load_weights(model: Any, path: "str | os.PathLike[str]") -> Any:
    """The pruned model of a saved file: replays its plan on `model` (the original class) and loads its weights.

    `model` is not modified; its own numbers do not matter.

    **Raises:** `FileFormatError` for a damaged file, `PlanError` where it belongs to another model.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    graphprune.save(graphprune.optimize(net, sparsity=0.5), "slim.safetensors")
    slim = graphprune.load_weights(net, "slim.safetensors")
    ```
    """
    return frontend_of(model).load_weights(model, path)


def save_pretrained(slim: Any, folder: "str | os.PathLike[str]", verify: bool = True) -> bool:
    """Write a pruned model of transformers to a folder, as its own `save_pretrained` does; all of it, or nothing.

    Where the config can say the new sizes, the folder is an ordinary one: plain `from_pretrained` of transformers reads
    it. Where it cannot (layers of different widths, say), the plan goes into the file of the weights;
    `graphprune.from_pretrained` reads either, and plain `from_pretrained` refuses the latter, for sizes that do not
    match. Other files in the folder, such as those of a tokenizer, stay.

    With `verify`, the folder is read before it takes its place: it must hold the same numbers to the last bit, and
    compute the same outputs, but for rounding.

    **Returns:** whether plain `from_pretrained` reads the folder.

    **Raises:** `UnsupportedModelError` for what is no model of transformers, such as a `GraphModule`; `PlanError` where
    the model was not made by graphprune; `VerifyError`, and nothing is written.

    ```python
    import torch, transformers, graphprune

    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config)
    slim = graphprune.optimize(model, 0.2, example_inputs={"input_ids": torch.ones(1, 8, dtype=torch.int64)})
    print(graphprune.save_pretrained(slim, "slim"))
    ```
    """
    if plan_of(slim) is None and masks_of(slim) is None:
        raise PlanError("this model was not made by graphprune: save it with its own save_pretrained")
    from .importing import part

    written: bool = part("frontends.torch.pretrained").save(slim, folder, verify)
    return written


def from_pretrained(folder: "str | os.PathLike[str]", model_class: Any = None, **options: Any) -> Any:
    """The model of a folder that `save_pretrained` wrote, pruned, in `eval()` and in the type that it was saved in.

    **Arguments:** `model_class`: the class of the model, where it is not one of transformers; `options` are passed on
    to the `from_pretrained` of transformers, such as `attn_implementation="eager"`.

    **Raises:** `FileFormatError` for a folder that is none, or damaged; `UnsupportedModelError` where the class is not
    known here.

    ```python
    import torch, transformers, graphprune

    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4)
    model = transformers.GPT2LMHeadModel(config)
    slim = graphprune.optimize(model, 0.2, example_inputs={"input_ids": torch.ones(1, 8, dtype=torch.int64)})
    graphprune.save_pretrained(slim, "slim")
    again = graphprune.from_pretrained("slim")
    ```
    """
    from .importing import part

    return part("frontends.torch.pretrained").load(folder, model_class, options)
