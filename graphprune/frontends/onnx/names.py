"""ONNX's names in the canonical vocabulary: one table by domain and operator.

A translation takes a `Call` (tensors already replaced by values) and returns (operation, inputs, attributes).
"""

from . import translate as to
from . import translate_attention as attention
from . import translate_quantised as quantised
from . import translate_recurrent as recurrent
from . import translate_views as views
from .fused import MICROSOFT
from .translate import Translation


def _table() -> dict[tuple[str, str], Translation]:
    table: dict[str, Translation] = {}
    for name, ours in {
        "Relu": "relu", "LeakyRelu": "leaky_relu", "Elu": "elu", "Selu": "selu", "Celu": "celu", "Gelu": "gelu",
        "HardSwish": "hardswish", "Mish": "mish", "Swish": "silu", "Tanh": "tanh", "Softsign": "softsign",
        "Shrink": "hardshrink", "Erf": "erf", "Sin": "sin", "Tan": "tan", "Asin": "asin", "Atan": "atan",
        "Sinh": "sinh", "Asinh": "asinh", "Atanh": "atanh", "Abs": "abs", "Neg": "neg", "Sign": "sign",
        "Sqrt": "sqrt", "Round": "round", "Floor": "floor", "Ceil": "ceil", "Sigmoid": "sigmoid",
        "HardSigmoid": "hardsigmoid", "Softplus": "softplus", "Exp": "exp", "Log": "log", "Reciprocal": "reciprocal",
        "Cos": "cos", "Cosh": "cosh", "Acos": "acos", "Acosh": "acosh", "Not": "logical_not",
        "BitwiseNot": "bitwise_not", "IsNaN": "isnan", "IsInf": "isinf", "ThresholdedRelu": "threshold",
    }.items():  # fmt: skip
        table[name] = to.unary(ours)
    table |= {name: to.binary(name.lower()) for name in ("Add", "Sub", "Mul", "Div")}
    table |= {"And": to.binary("logical_and"), "BitwiseAnd": to.binary("logical_and"), "Pow": to.power}
    table |= dict.fromkeys(
        "Equal Less Greater LessOrEqual GreaterOrEqual Or Xor BitwiseOr BitwiseXor Mod BitShift".split(), to.compare
    )
    table |= {"Sum": to.many("add"), "Mean": to.many("add"), "Max": to.many("maximum"), "Min": to.many("minimum")}
    table |= {"Where": to.where, "Clip": to.clip, "PRelu": to.prelu}
    table |= dict.fromkeys("Identity Dropout Cast CastLike".split(), to.same)
    table |= {"Conv": to.conv, "ConvTranspose": to.conv, "MatMul": to.matmul, "Gemm": to.gemm, "Einsum": to.einsum}
    table |= {"BatchNormalization": to.batch_norm, "InstanceNormalization": to.instance_norm}
    table |= {"LayerNormalization": to.layer_norm, "RMSNormalization": to.rms_norm}
    table |= {"SimplifiedLayerNormalization": to.rms_norm, "GroupNormalization": to.group_norm}
    for name, ours in {
        "Sum": "sum", "Mean": "mean", "Prod": "prod", "Max": "max", "Min": "min", "L1": "norm", "L2": "norm",
        "SumSquare": "sum", "LogSumExp": "logsumexp", "LogSum": "prod",
    }.items():  # fmt: skip
        table[f"Reduce{name}"] = to.reduce(ours)
    table |= dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], to.softmax)
    table |= {"LpNormalization": to.along("softmax"), "CumSum": to.cumsum, "TopK": to.along("topk")}
    table |= dict.fromkeys(["ArgMax", "ArgMin"], to.along("argmax", 0))
    table |= dict.fromkeys("MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool".split(), to.pool)
    table |= {"Resize": to.resize, "Upsample": to.resize, "RoiAlign": to.roi_align, "MaxRoiPool": to.roi_align}
    table |= dict.fromkeys("Reshape Flatten Squeeze Unsqueeze".split(), views.reshape)
    table |= {"Transpose": views.transpose, "Concat": views.concat, "Split": views.split, "Slice": views.slice_}
    table |= {"Gather": views.gather, "Expand": views.expand, "Tile": views.tile, "Pad": views.pad}
    table |= dict.fromkeys("GatherElements ScatterElements Scatter".split(), views.picked)
    table |= {"GatherND": views.gather_nd, "ScatterND": views.scatter_nd}
    table |= {"DepthToSpace": views.depth_to_space, "SpaceToDepth": views.space_to_depth}
    table |= {"ConstantOfShape": to.fill}
    table |= dict.fromkeys("Range EyeLike RandomNormal RandomUniform".split(), to.made)
    table |= {"LSTM": recurrent.recurrent(4, 2), "GRU": recurrent.recurrent(3, 1), "RNN": recurrent.recurrent(1, 1)}
    table |= {"Attention": attention.attention, "RotaryEmbedding": attention.rotary("num_heads", 1)}
    table |= dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], quantised.linear_quantised)
    table |= {"QLinearConv": quantised.conv_quantised, "ConvInteger": quantised.conv_integer}
    table |= {"QLinearMatMul": quantised.matmul_quantised, "MatMulInteger": quantised.matmul_integer(3)}
    table |= {"DynamicQuantizeLinear": quantised.quantised_dynamically}
    return {("", name): translation for name, translation in table.items()} | _microsoft()


def _microsoft() -> dict[tuple[str, str], Translation]:
    """Operators that optimisers of ONNX Runtime fuse."""
    table: dict[str, Translation] = {"Gelu": to.unary("gelu"), "QuickGelu": to.unary("silu")}
    table |= dict.fromkeys(["BiasGelu", "FastGelu"], attention.biased("gelu"))
    table |= {"Attention": attention.fused_attention, "MultiHeadAttention": attention.multi_head_attention}
    table |= {"GroupQueryAttention": attention.grouped_query_attention}
    table |= {"RotaryEmbedding": attention.rotary("num_heads", 2), "EmbedLayerNormalization": attention.embed_norm}
    table |= {"SkipLayerNormalization": attention.skip_norm("layer_norm", 4)}
    table |= {"SkipSimplifiedLayerNormalization": attention.skip_norm("rms_norm", 3)}
    table |= {"FusedConv": attention.activated(to.conv, 3), "FusedGemm": attention.activated(to.gemm)}
    table |= dict.fromkeys(["FusedMatMul", "TransposeMatMul"], attention.fused_matmul)
    table |= dict.fromkeys(["QuantizeLinear", "DequantizeLinear"], quantised.linear_quantised)
    table |= {"QLinearAdd": quantised.binary_quantised("add"), "QLinearMul": quantised.binary_quantised("mul")}
    table |= {"QLinearConcat": quantised.concat_quantised, "QLinearConv": quantised.conv_quantised}
    table |= dict.fromkeys(["QLinearAveragePool", "QLinearGlobalAveragePool"], quantised.pool_quantised)
    table |= {"MatMulIntegerToFloat": quantised.matmul_dequantised(6, 3, 5)}
    table |= {"DynamicQuantizeMatMul": quantised.matmul_dequantised(4, 2, 3)} | quantised.UNARY
    return {(MICROSOFT, name): translation for name, translation in table.items()}


TRANSLATIONS = _table()
