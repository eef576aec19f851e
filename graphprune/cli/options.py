"""Options that several commands take: the model and its inputs, where results go, and how they are printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .output import spinner

MODEL_HELP = (
    "A model: [b]package.module:callable[/b] that returns an nn.Module, a saved program [b]model.pt2[/b], or "
    "[b]model.onnx[/b]."
)
INPUT_HELP = (
    "Shape of one input, [b]1,3,224,224[/b] or [b]1,128:int64[/b]; repeat for several; ONNX inputs also by name, "
    "[b]x=1,3,224,224[/b]. Inferred where possible."
)
WEIGHTS_HELP = "Weights to load into the model first: .safetensors (also pruned ones) or a state dict (.pt)."
THOROUGH_HELP = "Verify over several inputs, not one."

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Slim = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="slim.onnx, slim.safetensors or slim.pt2")]
Target = Annotated[str, typer.Option(help="The machine to compile for.")]
Thorough = Annotated[bool, typer.Option("--thorough", help=THOROUGH_HELP)]
Inputs = Annotated[
    list[str] | None, typer.Option("--input", "-i", metavar="SHAPE", help=INPUT_HELP, show_default=False)
]


@dataclass(frozen=True)
class Given:
    """The model that a command works on."""

    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
    inputs: Inputs = None
    weights: Annotated[Path | None, typer.Option(metavar="FILE", help=WEIGHTS_HELP)] = None

    @property
    def source(self) -> Any:
        """How such a model is loaded and saved."""
        from ..frontends import source_of

        return source_of(self.model)

    def example_inputs(self) -> Any:
        """What `--input` asks for, or None."""
        return self.source.example_inputs(self.inputs or [])

    def load(self) -> Any:
        """The model, with the weights named beside it."""
        return self.load_with(self.weights)

    def load_with(self, weights: Path | None) -> Any:
        """The model with other weights."""
        import graphprune

        with spinner(f"loading {self.model}"):
            loaded = self.source.load_model(self.model)
            if weights is None:
                return loaded
            if weights.suffix == ".safetensors":
                return graphprune.load_weights(loaded, weights)
            self.source.load_state(loaded, weights)
            return loaded


def check_slim(path: Path) -> None:
    """Exit with usage for an ending that no pruned model is written with."""
    if path.suffix not in (".onnx", ".safetensors", ".pt2"):
        raise typer.BadParameter("must end in .onnx, .safetensors or .pt2", param_hint="--out")
