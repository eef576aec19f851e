"""Options that several commands take: the model and its inputs, where results go, and how they are printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import OptionError
from ..progress import tell
from . import completing
from .output import check_out

MODEL_HELP = (
    "A model: [b]package.module:callable[/b] that returns an nn.Module, a saved program [b]model.pt2[/b], "
    "[b]model.onnx[/b], [b]timm:resnet18[/b], or [b]hf:name[/b] or [b]hf:./folder[/b] of Hugging Face."
)
INPUT_HELP = (
    "Shape of one input, [b]1,3,224,224[/b] or [b]1,128:int64[/b]; repeat for several; also by name, "
    "[b]x=1,3,224,224[/b]. Inferred where possible."
)
WEIGHTS_HELP = "Weights to load into the model first: .safetensors (also pruned ones) or a state dict (.pt)."
RANDOM_HELP = "Of timm: and hf: models: random weights instead of trained ones, which must be downloaded."
SLIM_HELP = "The pruned model: weights and plan (slim.safetensors), a program (slim.pt2), or slim.onnx."
THOROUGH_HELP = "Verify over several inputs, not one."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Slim = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help=SLIM_HELP)]
Target = Annotated[str, typer.Option(help="The machine to compile for.", autocompletion=completing.targets)]
Thorough = Annotated[bool, typer.Option("--thorough", help=THOROUGH_HELP)]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="SHAPE", help=INPUT_HELP, show_default=False)
]


@dataclass(frozen=True)
class Given:
    """The model that a command works on."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=completing.models)]
    inputs: Inputs = None
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help=WEIGHTS_HELP)] = None
    random_weights: Annotated[bool, typer.Option("--random-weights", help=RANDOM_HELP)] = False

    @property
    def source(self) -> Any:
        """How such a model is loaded and saved."""
        from ..frontends import source_of

        return source_of(self.model)

    def example_inputs(self) -> Any:
        """What `--input` asks for, or None."""
        return self.source.example_inputs(self.inputs or [])

    def load(self, numbers: bool = True) -> Any:
        """The model, with the weights named beside it; without `numbers`, with any weights that cost no download."""
        import graphprune

        tell(f"load {self.model}")
        if self.random_weights and not self.model.startswith(("timm:", "hf:")):
            raise OptionError(f"--random-weights is for timm: and hf: models; what {self.model} holds is up to it")
        pretrained = numbers and not self.random_weights and self.weights is None
        loaded = self.source.load_model(self.model, pretrained)
        if self.weights is None:
            return loaded
        if self.weights.suffix == ".safetensors":
            return graphprune.load_weights(loaded, self.weights)
        self.source.load_state(loaded, self.weights)
        return loaded


def check_slim(path: Path) -> None:
    """Exit with usage for a path that no pruned model can be written to."""
    check_out(path, ".onnx", ".safetensors", ".pt2")
