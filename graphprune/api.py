"""The public verbs."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import PlanError, UnsupportedModelError
from .frontends import frontend_of
from .policy import DEFAULT, resolve_policy

if TYPE_CHECKING:
    from .analysis import Analysis
    from .backends.artifact import Artifact
    from .budget import Budget
    from .equivalence import Verification
    from .masks import Masks
    from .plan import Plan
    from .widths import Limit, Widths


def optimize(
    model: Any,
    sparsity: float | None = None,
    *,
    example_inputs: Any = None,
    budget: "Budget" = "params",
    structure: str = "channel",
    block: Sequence[int] | None = None,
    criterion: "str | Callable[..., Any]" = "l2",
    scope: str | None = None,
    keep: Iterable[str] = (),
    multiple_of: int | None = None,
    target: str | None = None,
    exact: bool | str = "prefer",
    policy: "str | Iterable[str] | None" = None,
    seed: int = 0,
    verify: bool = True,
    progress: Callable[[str], None] | None = None,
    allocate: str | None = None,
    widths: "Widths | None" = None,
    min_width: "Limit" = None,
    reduction: str | None = None,
    normalizer: str | None = None,
    data: Any = None,
    loss: Callable[..., Any] | None = None,
    recover: bool | str = False,
    latency: str | None = None,
    threads: int | None = None,
    insist: bool = False,
) -> Any:
    """A smaller model that computes what the original computes with the dropped channels set to zero.

    With `structure="channel"` the channels go. With another one the shapes stay and single weights become zero.

    **Arguments:**

    - `model`: `nn.Module`, `torch.fx.GraphModule`, `torch.export.ExportedProgram`, `onnx.ModelProto`, `onnx_ir.Model`,
      `onnx_graphsurgeon.Graph`, the path of an .onnx file, or a `tvm.IRModule` with bound weights. It is not modified.
    - `sparsity`: the share of the budgeted quantity that goes, between 0 and 1; one half where it is left out. The
      result is never above the budget, and less than one granule below it.
    - `example_inputs`: a tensor, a tuple of positional inputs, or a dict of keyword inputs (ONNX: arrays by input
      name). Inferred from `dummy_inputs`, `pretrained_cfg` / `default_cfg`, the first layer or ONNX inputs where it is
      left out.
    - `budget`: what is limited: "params" (elements of parameters), "macs" (multiply-accumulates for the example
      inputs), "bytes" (of parameters and saved buffers) or "memory" (the peak of activations for the example inputs);
      several of them, `("params", "macs")`; or a dict with a sparsity for each, `{"params": 0.5, "macs": 0.4}`.
      All of them hold. "latency" is the time of the compiled model on `target`, which must be this machine. For single
      weights: "params" (elements that are not zero, of all parameters) or "weights" (of those that may become zero).
    - `structure`: "channel"; "unstructured": single weights; "2:4" or any "n:m": of every m consecutive inputs of an
      output at most n weights stay, which fixes the sparsity; "block" with `block=(outputs, inputs)`, or "block:16x1":
      weights in tiles. `graphprune.masks_of(result)` tells which weights are zero, and `graphprune.hold_masks` keeps
      them zero while the model is trained. Options that speak of channels or of their cost are refused then.
    - `criterion`: a name of `graphprune.criteria.CRITERIA`, such as "l2", "taylor" or "reconstruction", or a callable.
      Which criterion for what: `docs/criteria.md`. For single weights "magnitude" (also called "l2"), "wanda" or
      "sparsegpt"; the last two look at `data`.
    - `scope`: "global" compares all channels (scores are divided by their layer's mean) or weights; "layer" takes the
      same share from every layer, "isomorphic" from every set of layers of one structure, within which channels
      compete. None is "layer" for weights by "wanda" and "sparsegpt", and "global" otherwise.
    - `data`: calibration batches for criteria that look at data, and for `recover`: any iterable of batches, each the
      inputs of one call (a tensor, a tuple of positional inputs or a dict of keyword inputs), or `(inputs, targets)`.
    - `loss`: a function of outputs and targets for criteria that look at gradients. Without it: the model's own loss
      (`outputs.loss`), cross-entropy for targets of whole numbers, squared error for others; without targets, the
      Fisher information of the outputs.
    - `recover`: accuracy back without training, from `data` or, without it, from batch-norm statistics. True or
      "least_squares" refits what reads a pruned layer to what the original computes; "bias" moves biases only;
      "batch_norm" estimates batch-norm statistics anew. The result is never worse on the calibration data.
    - `reduction`: how the scores of a group's members become one: "mean", "sum", "max", "product".
    - `normalizer`: by what scores are divided to compare layers: "mean", "max", "sum", "l2", "none". None, for this and
      `reduction`, for what suits the criterion.
    - `allocate`: "score" drops the least important channels first, "per_cost" those of which the least importance
      is lost for what they take off the budget, which suits criteria that estimate losses. None for what suits the
      criterion.
    - `widths`: bounds by pattern, `{"layer1.*": (8, None), "fc": (None, 0.5)}`: the fewest and the most outputs of
      these layers that stay, as a number or as a share of what there is; down to the most they are pruned in any case.
    - `min_width`: the same lower bound for all layers; those that have fewer keep what they have.
    - `latency`: the time that the compiled model may take on `target` (default "x86"), `"2.5 ms"`, or a share of what
      it takes now, `"60 %"`. This is the budget then; a dict in `budget` holds besides. Kernels are measured (once: the
      times are kept), the result is compiled and measured; where it is not faster than the model before, a
      `LatencyWarning` says so and the model itself comes back, unless `insist`. `threads`: to measure with.
    - `keep`: patterns of parameter or module names that keep their sizes, such as `"layer1.*"` or `"fc"`.
    - `multiple_of`: channel counts that change become multiples of this. None for what suits the runtime of the model:
      1 for torch, for ONNX 8, or the first of 4, 2, 1 that meets the budget within 2 % of all.
    - `target`: a name from `graphprune.backends.targets`, such as "x86": channel counts that change also become
      multiples of what one of its vectors holds, which suits compiled code.
    - `exact`: "prefer" drops groups for which dropping is not the same as masking (widths through a LayerNorm)
      only when the budget cannot be met otherwise, with a warning; True never; False treats all alike.
    - `policy`: where channels are split into heads, "heads" drops whole heads and "dims" as many positions of every
      head; where they are split into groups, "positions" drops as many channels of every group, "groups" whole groups,
      and "narrow" whole groups of convolutions whose groups have up to 16 channels, and positions of all others. One
      word, or two: `("dims", "groups")`. None is "heads" and "positions", or "narrow" where a target is given.
    - `seed`: for `criterion="random"`.
    - `verify`: run the result against the masked original, in float64 on one random input; `graphprune.verify`
      does it on several.
    - `progress`: called with the name of every stage as it starts.

    **Returns:** the same kind of thing as was given; a module keeps its class unless sizes are written into its
    `forward`, then it is a `GraphModule`; for a path an `onnx.ModelProto` (an `onnx_ir.Model` above 2 GB).
    `graphprune.plan_of(result)` is the plan that made it.

    **Raises:** `FileFormatError`, `UnsupportedModelError`, `BudgetError`, `NothingToPruneError`, `TargetError`,
    `ExampleInputsError`, `TraceError`, `WeightsError`,
    `CriterionError`, `DataError`, `OptionError`, `ApplyError`, `VerifyError`; all are `GraphPruneError`.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    slim = graphprune.optimize(net, sparsity=0.5)
    ```
    """
    asked = dict(locals())  # all options by their names
    from .passes.chosen import passes_for
    from .passes.pipeline import Program, run_passes
    from .progress import shown

    hook = None if progress is None else lambda stage, program: progress(stage.name)
    with shown(progress, quiet=data is None and not recover) as report:
        return run_passes(Program(model, example_inputs), passes_for(asked, report), before=hook).model


def analyze(model: Any, example_inputs: Any = None, policy: "str | Iterable[str]" = DEFAULT) -> "Analysis":
    """Trace a model and find what hangs together, without touching weights. `policy` as in `optimize`.

    **Returns:** an `Analysis`: `explain()`, `plan(...)`, `cost()`, `to_networkx()`, `to_dot()`, `to_graphml()`.

    **Raises:** `UnsupportedModelError`, `ExampleInputsError`, `TraceError`, `OptionError`.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    print(graphprune.analyze(net, torch.randn(1, 4)).explain())
    ```
    """
    analysis: Analysis = frontend_of(model).analyze(model, example_inputs, resolve_policy(policy))
    return analysis


def verify(
    original: Any, slim: Any, plan: "Plan | None" = None, example_inputs: Any = None, thorough: bool = True
) -> "Verification":
    """Prove on random inputs that `slim` equals `original` with the dropped parameters set to zero.

    **Arguments:** `plan` defaults to the one that made `slim`; `example_inputs` to what the plan describes.
    Both run in float64; errors up to 1e-9 of the largest output are allowed. ONNX models run in ONNX Runtime; where
    it has no float64 kernel the result says so and allows more. `thorough` compares on three inputs instead of one, and
    ONNX models with open axes at other sizes too.

    **Returns:** a `Verification` with the measured error.

    **Raises:** `VerifyError` that names the first node that differs; also where the outputs depend on no input or
    the plan drops nothing.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    slim = graphprune.optimize(net, sparsity=0.5, verify=False)
    print(graphprune.verify(net, slim).error)  # relative to the largest output
    ```
    """
    from .equivalence import compare

    masks = None if plan is not None else masks_of(slim)
    plan = plan if plan is not None else plan_of(slim)
    if masks is not None and masks.updated:
        raise PlanError("weights of slim were updated, so it does not equal a masked original; compare their outputs")
    if masks is not None:  # first channels went, then weights: one step after the other
        dense = original if plan is None else plan.apply(original, example_inputs)
        seen = compare(frontend_of(dense), dense, slim, masks, example_inputs, thorough, strict=True)
        if plan is None:
            return seen
        slim = dense
    if plan is None:
        raise PlanError("slim was not made by graphprune: pass the plan that made it")
    frontend, own = frontend_of(original), frontend_of(slim)
    if frontend is not own and hasattr(own, "as_module"):  # a program that a module was exported to
        slim = own.as_module(slim)
    return compare(frontend, original, slim, plan, example_inputs, thorough, strict=True)


def plan_of(slim: Any) -> "Plan | None":
    """The plan that made a pruned model, from the model before its first pruning; None for other models.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    plan = graphprune.plan_of(graphprune.optimize(net, sparsity=0.5))
    print(plan.report["params"], plan.widths())
    ```
    """
    plan: Plan | None = frontend_of(slim).plan_of(slim)
    return plan


def masks_of(model: Any) -> "Masks | None":
    """Which weights of a model were set to zero one by one; None for models without masks.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    sparse = graphprune.optimize(net, 0.5, structure="unstructured")
    print(graphprune.masks_of(sparse).explain())
    ```
    """
    masks: Masks | None = frontend_of(model).masks_of(model)
    return masks


def hold_masks(model: Any, masks: "Masks | None" = None) -> Any:
    """Keep masked weights at zero while a module is trained; in place, and returns the module.

    Every masked parameter gets a `torch.nn.utils.parametrize` parametrization: gradients of masked weights are zero,
    and whatever an optimizer does, the module sees zeros there. Parameters stay the same objects, so that optimizers
    that hold them stay valid; in state dicts they are called `...parametrizations.weight.original`, and the mask
    travels with them. `masks` are those that the model remembers unless others are given.

    **Raises:** `PlanError` where there are no masks or they are those of another model, `UnsupportedModelError` where
    masks are held already, `ApplyError` for masks of recurrent layers; then nothing is changed.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    sparse = graphprune.hold_masks(graphprune.optimize(net, 0.5, structure="unstructured"))
    optimizer = torch.optim.Adam(sparse.parameters())
    sparse(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    graphprune.finalize(sparse)
    ```
    """
    return _torch_only(model, "hold_masks")(model, masks)


def finalize(model: Any) -> Any:
    """After training with `hold_masks`: write zeros into the parameters and take the parametrizations off, in place.

    Names are again those of the original, and exports hold exact zeros. Raises `PlanError` for a model without masks.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    sparse = graphprune.hold_masks(graphprune.optimize(net, 0.5, structure="unstructured"))
    graphprune.finalize(sparse)  # after training
    assert sorted(sparse.state_dict()) == sorted(net.state_dict())
    ```
    """
    return _torch_only(model, "finalize")(model)


def to_semi_structured(model: Any) -> Any:
    """A copy whose linear layers hold torch's semi-structured tensors wherever their weights are 2:4, for NVIDIA GPUs.

    The model must lie on a GPU of compute capability 8.0 or newer, in float16, bfloat16, int8 or float32, and the sizes
    of a layer must be multiples of (32, 64) in half precision. Other layers stay as they are. The result computes the
    same; it is made for inference, and can neither be trained nor saved by `graphprune.save`.

    **Raises:** `TargetError` where torch sees no GPU, `NothingToPruneError` where no layer fits, with the reasons.
    """
    return _torch_only(model, "to_semi_structured")(model)


def _torch_only(model: Any, verb: str) -> "Callable[..., Any]":
    function: Callable[..., Any] | None = getattr(frontend_of(model), verb, None)
    if function is None:
        raise UnsupportedModelError(f"{verb} works on torch modules, not on a {type(model).__name__}")
    return function


def compile(
    model: Any,
    target: str = "x86",
    *,
    example_inputs: Any = None,
    threads: int | None = None,
    batch_sizes: Sequence[int] | None = None,
    tune: float | None = None,
    weights: str = "embedded",
    examine: bool = False,
    precision: str = "fp32",
    cuda_graph: bool = False,
    sparse: "str | bool" = "auto",
) -> "Artifact":
    """Compile a model to an artifact for a target.

    **Arguments:** `model`: module, exported program or ONNX model; `target`: a name from `graphprune.backends.targets`;
    `example_inputs` as in `optimize` (their shapes are the shapes of the artifact); `threads`: how many the
    artifact runs with here; `batch_sizes` such as `(1, 4, 16)`: calls may have any number of samples in the first
    axis, and run in pieces of these sizes; `tune`: measure candidates for the kernels on this machine for so many
    seconds and take the fastest ones. What was measured is remembered, also when this is interrupted; `tune=0` uses
    it without measuring; `weights`: "embedded" in the code, or "separate": beside it, mapped into memory when the
    artifact is loaded, and shared by all processes that load the file; `examine`: count the instructions of the machine
    code, too, for `artifact.static_cost()`; `precision`: "fp16" and "bf16" store the weights in half of the bits;
    arithmetic, inputs and outputs stay as they are. On CUDA targets products are computed in it, and "tf32" is one
    more; `cuda_graph=True` launches the kernels of a call together there; `sparse="auto"` takes kernels that pass over
    zeros for layers whose weights are mostly zero, where they promise, or were measured, to be faster; False never.

    **Returns:** an `Artifact`: call it with numpy, torch or DLPack tensors; `save(path)` writes one file;
    `profile(*inputs)` tells the time of every kernel. A `SlowKernelWarning` names operators that no schedule was
    written for, where they matter.

    **Raises:** `TargetError`, `CompileError`, `ExampleInputsError`, `UnsupportedModelError`, `OptionError`.

    ```python
    import torch, graphprune

    net = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)).eval()
    artifact = graphprune.compile(net, target="x86", example_inputs=torch.randn(1, 4))
    artifact.save("net.gp")
    ```
    """
    from .backends.compiler import compile_model

    frontend = frontend_of(model)
    inputs = frontend.example_inputs_of(model, example_inputs)
    plan = frontend.plan_of(model)
    metadata = {} if plan is None else {"fingerprint": plan.fingerprint, "report": plan.report}
    return compile_model(
        model,
        target=target,
        example_inputs=inputs,
        threads=threads,
        metadata=metadata,
        batch_sizes=batch_sizes,
        tune=tune,
        weights=weights,
        plan=None if plan is None else plan.to_json(),
        examine=examine,
        precision=precision,
        cuda_graph=cuda_graph,
        sparse=sparse,
    )
