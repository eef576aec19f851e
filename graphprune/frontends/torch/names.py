"""Torch's names in the canonical vocabulary: one table for functions, methods and ATen operators.

A translation takes a `Call` (tensors already replaced by values) and returns (operation, inputs, attributes).
"""

from collections.abc import Callable

from . import translate as to
from . import translate_indexing as indexing
from . import translate_recurrent as recurrent
from . import translate_views as views
from .calls import Call, Translated


def _table() -> dict[str, Callable[[Call], Translated]]:
    table: dict[str, Callable[[Call], Translated]] = {}
    for name in """relu relu6 leaky_relu elu selu celu gelu silu mish hardswish tanh hardtanh tanhshrink softsign
        softshrink hardshrink erf sin tan asin atan sinh asinh atanh expm1 log1p abs neg sign sqrt square round floor
        ceil trunc frac nan_to_num sigmoid hardsigmoid logsigmoid softplus exp exp2 log log2 log10 rsqrt reciprocal
        cos cosh acos acosh erfc logical_not bitwise_not isnan isinf isfinite threshold digamma lgamma rrelu
        positive""".split():
        table[name] = to.unary_call(name)
    table |= {"absolute": table["abs"], "__neg__": table["neg"], "__abs__": table["abs"], "special_erf": table["erf"]}
    table |= {"log_sigmoid": table["logsigmoid"]}
    table |= {"__invert__": table["logical_not"], "negative": table["neg"], "special_expit": table["sigmoid"]}
    table |= {"hardtanh": to.clamp_default_call(-1.0, 1.0), "relu6": table["relu6"]}
    for operation, names in {
        "add": "add __add__ __iadd__ __radd__",
        "sub": "sub subtract __sub__ __isub__",
        "mul": "mul multiply __mul__ __imul__ __rmul__",
        "div": "div divide true_divide __truediv__ __itruediv__ __div__",
        "maximum": "maximum fmax",
        "minimum": "minimum fmin",
        "logical_and": "logical_and bitwise_and __and__",
    }.items():
        table |= dict.fromkeys(names.split(), to.binary_call(operation))
    table |= {"rsub": to.reversed_call("sub"), "__rsub__": to.reversed_call("sub")}
    table |= {"__rtruediv__": to.reversed_call("div"), "__rdiv__": to.reversed_call("div")}
    table |= dict.fromkeys("pow __pow__ __ipow__ float_power".split(), to.power_call)
    table |= dict.fromkeys(
        """eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_or logical_xor bitwise_or __or__
        floor_divide remainder fmod __floordiv__ __mod__ atan2""".split(),
        to.compare_call,
    )
    table |= dict.fromkeys("clamp clip clamp_min clamp_max".split(), to.clamp_call)
    table |= dict.fromkeys("where masked_fill".split(), to.where_call)
    table |= dict.fromkeys("addcmul addcdiv lerp".split(), to.addcmul_call)
    table |= dict.fromkeys(
        """contiguous clone detach to type type_as float double half bfloat16 dropout dropout1d dropout2d dropout3d
        alpha_dropout feature_dropout feature_alpha_dropout _to_copy lift_fresh alias identity requires_grad cpu
        .data native_dropout copy_to_device lift_fresh_copy""".split(),
        to.same_call,
    )
    table |= dict.fromkeys(
        """empty arange linspace eye empty_like rand randn rand_like randn_like tensor as_tensor scalar_tensor new_empty
        new_tensor tril_indices triu_indices meshgrid""".split(),
        to.constant_call,
    )
    table |= dict.fromkeys(["zeros", "new_zeros"], to.fill_call(0)) | dict.fromkeys(
        ["ones", "new_ones"], to.fill_call(1)
    )
    table |= {"full": to.fill_call(None), "new_full": to.fill_call(None, 2)}
    table |= {
        "zeros_like": to.fill_like_call(0),
        "ones_like": to.fill_like_call(1),
        "full_like": to.fill_like_call(None),
    }
    table |= {
        "linear": to.linear_call,
        "addmm": to.addmm_call,
        "einsum": to.einsum_call,
        "_grouped_mm": to.grouped_matmul_call,
        "grouped_mm": to.grouped_matmul_call,
        "prelu": to.prelu_call,
        "embedding": to.embedding_call,
        "embedding_bag": to.embedding_call,
        "_embedding_bag": to.embedding_call,
        "_embedding_bag_forward_only": to.embedding_call,
        "baddbmm": to.addmm_call,
        "bilinear": to.bilinear_call,
        "tensordot": to.tensordot_call,
        "glu": to.along_call("glu"),
        "im2col": to.parts_call("unfold"),
        "col2im": to.parts_call("fold"),
        "unfold": to.windows_call,
        "grid_sample": to.sample_call,
        "grid_sampler": to.sample_call,
        "_weight_norm": to.weight_norm_call,
        "_weight_norm_interface": to.weight_norm_call,
    }
    table |= dict.fromkeys("matmul mm bmm mv dot __matmul__ __rmatmul__".split(), to.matmul_call)
    table["__rmatmul__"] = lambda call: to.matmul_call(Call("matmul", call.args[::-1], {}, call.shapes))
    table |= {f"conv{n}d": to.conv_call for n in (1, 2, 3)} | {f"conv_transpose{n}d": to.conv_call for n in (1, 2, 3)}
    table |= {"convolution": to.convolution_call, "_convolution": to.convolution_call}
    table |= {"scaled_dot_product_attention": to.attention_call, "multi_head_attention_forward": to.multi_head_call}
    for name, gates, states in (("lstm", 4, 2), ("gru", 3, 1), ("rnn_tanh", 1, 1), ("rnn_relu", 1, 1)):
        table[name] = recurrent.recurrent_call(gates, states)
        table[f"{name}_cell"] = recurrent.recurrent_cell_call(gates, states)
    table |= dict.fromkeys(["_pack_padded_sequence", "_pad_packed_sequence"], recurrent.pack_call)
    table |= {
        "batch_norm": to.running_norm_call("batch_norm"),
        "_native_batch_norm_legit_no_training": to.aten_norm_call,
        "native_batch_norm": to.aten_norm_call,
    }
    table |= {"instance_norm": to.running_norm_call("instance_norm"), "group_norm": to.group_norm_call}
    table |= {"layer_norm": to.layer_norm_call, "native_layer_norm": to.layer_norm_call, "rms_norm": to.rms_norm_call}
    names = "view reshape flatten unflatten squeeze unsqueeze ravel view_as reshape_as _unsafe_view _reshape_alias"
    table |= dict.fromkeys(names.split(), views.reshape_call)
    table |= {"view_as_complex": to.parts_call("as_complex"), "view_as_real": to.parts_call("identity")}
    table |= {f"fft_{name}": to.transform_call(1) for name in "fft ifft rfft irfft hfft ihfft".split()}
    table |= {f"fft_{name}2": to.transform_call(2) for name in "fft ifft rfft irfft".split()}
    table |= {"permute": views.permute_call} | dict.fromkeys(
        "transpose swapaxes swapdims t .T .mT .H .mH mT mH adjoint".split(), views.transpose_call
    )
    table |= dict.fromkeys("movedim moveaxis".split(), views.movedim_call)
    table |= dict.fromkeys("cat concat concatenate".split(), views.cat_call) | {"stack": views.stack_call}
    table |= dict.fromkeys(
        "split split_with_sizes chunk tensor_split unsafe_chunk unsafe_split".split(), views.split_call
    )
    table |= {
        "unbind": views.unbind_call,
        "select": views.select_call,
        "slice": views.slice_call,
        "narrow": views.narrow_call,
        "__getitem__": views.getitem_call,
    }
    table |= {"index_select": views.index_select_call, "index": views.index_call}
    table |= dict.fromkeys("gather take_along_dim".split(), views.unknown_index_call)
    table |= dict.fromkeys("flip fliplr flipud".split(), views.flip_call) | {"roll": views.roll_call}
    table |= dict.fromkeys("expand expand_as broadcast_to".split(), views.expand_call)
    table |= {"repeat": views.repeat_call, "tile": views.repeat_call, "repeat_interleave": views.repeat_interleave_call}
    table |= {"native_channel_shuffle": views.shuffle_call("channel_shuffle")}
    table |= {"pad": views.pad_call, "constant_pad_nd": views.constant_pad_call}
    table |= {name: views.shuffle_call(name) for name in ("pixel_shuffle", "pixel_unshuffle", "channel_shuffle")}
    for operation, names in {
        "sum": "sum", "mean": "mean", "var": "var", "std": "std", "prod": "prod",
        "max": "max amax any", "min": "min amin all", "logsumexp": "logsumexp",
    }.items():  # fmt: skip
        table |= dict.fromkeys(names.split(), to.reduce_call(operation))
    table |= {"norm": to.norm_call, "linalg_vector_norm": to.norm_call}
    table |= dict.fromkeys("softmax log_softmax _softmax _log_softmax softmin".split(), to.along_call("softmax"))
    table |= {
        "cumsum": to.along_call("cumsum"),
        "cumprod": to.along_call("cumsum"),
        "sort": to.along_call("sort"),
        "argsort": to.along_call("sort"),
    }
    table |= {
        "topk": to.along_call("topk", 2),
        "argmax": to.along_call("argmax", 1, None),
        "argmin": to.along_call("argmax", 1, None),
    }
    for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool"):
        table |= {f"{kind}{n}d": to.pool_call for n in (1, 2, 3)}
    table |= {f"max_pool{n}d_with_indices": to.pool_call for n in (1, 2, 3)} | {
        f"_adaptive_avg_pool{n}d": to.pool_call for n in (2, 3)
    }
    table |= dict.fromkeys(
        """interpolate upsample upsample_nearest2d upsample_bilinear2d upsample_bicubic2d upsample_nearest1d
        upsample_linear1d upsample_nearest3d upsample_trilinear3d""".split(),
        to.interpolate_call,
    )
    table["roi_align"] = to.regions_call
    table |= {"__setitem__": indexing.setitem_call, "index_put": indexing.index_put_call}
    table |= dict.fromkeys(["index_add", "index_copy"], indexing.index_add_call)
    return table


TRANSLATIONS = _table()

QUIET = frozenset(
    """.shape .device .dtype .requires_grad .is_cuda .is_meta .layout .grad .grad_fn .ndim .is_leaf .is_mkldnn
    .is_nested .is_quantized .is_sparse .names .output_nr .is_cpu .is_xpu .itemsize .nbytes ._version .retains_grad
    size dim stride numel nelement ndimension is_contiguous storage_offset element_size data_ptr is_floating_point
    is_complex is_signed get_device __len__ __bool__ __int__ __float__ __index__ item tolist __hash__ __repr__
    __format__ is_same_size _assert _assert_scalar _assert_async sym_size sym_stride sym_numel __contains__
    is_inference untyped_storage has_names __deepcopy__ __reduce_ex__ register_hook is_tensor equal allclose
    set .requires_grad _set_grad_enabled _is_view is_pinned is_shared dense_dim sparse_dim""".split()
)
"""Calls that only ask for facts; they are run and not recorded."""
