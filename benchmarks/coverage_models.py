"""The models of the coverage benchmark, by family: what they are called and how they are built.

The Hugging Face architectures are in `coverage_huggingface.py`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._pytree import tree_map

import common  # noqa: F401  (makes the helpers of the tests importable)
import coverage_huggingface
from helpers import import_torchvision, randomise


class Case(NamedTuple):
    """A model, inputs to run it with (positional or keyword), and whether the pruner has to find inputs itself."""

    model: torch.nn.Module
    inputs: "tuple[Any, ...] | dict[str, Any]"
    inferred: bool = False


class Family(NamedTuple):
    """A family: its title, the names of its models, and what builds one."""

    title: str
    names: Callable[[], Sequence[str]]
    build: Callable[[str], Case]


def _torchvision_names(kind: str) -> list[str]:
    models = import_torchvision().models
    return list(models.list_models(getattr(models, kind) if kind else models))


def _classifier(name: str) -> Case:
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model = import_torchvision().models.get_model(name, weights=None, **options)
    size = 299 if name == "inception_v3" else 224
    return Case(model, (torch.randn(1, 3, size, size),), True)


def _segmentation(name: str) -> Case:
    model = import_torchvision().models.get_model(name, weights=None, weights_backbone=None)
    return Case(model, (torch.randn(1, 3, 128, 128),))


_TWO_STAGES = {
    "min_size": 128,
    "max_size": 160,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 20,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
}
_ONE_STAGE = {"score_thresh": 0.0, "topk_candidates": 30, "detections_per_img": 10}


def _detector(name: str) -> Case:
    """Few proposals, and no score threshold: random weights find no object, and then there would be no output."""
    options: dict[str, Any] = _TWO_STAGES if "rcnn" in name else _ONE_STAGE
    if "ssd" not in name and "rcnn" not in name:
        options = options | {"min_size": 128, "max_size": 160}
    model = import_torchvision().models.get_model(name, weights=None, weights_backbone=None, **options)
    return Case(model, ([torch.rand(3, 128, 160)],))


def _video(name: str) -> Case:
    model = import_torchvision().models.get_model(name, weights=None)
    size = 224 if "mvit" in name or name == "s3d" else 112
    return Case(model, (torch.randn(1, 3, 16, size, size),))


def _timm(name: str) -> Case:
    import_torchvision()  # with its missing operators, before timm does
    import timm

    model = timm.create_model(name, pretrained=False)
    return Case(model, (torch.randn(1, *model.pretrained_cfg["input_size"]),), True)


def _hugging_face(name: str) -> Case:
    import_torchvision()
    return Case(*coverage_huggingface.build(name))


TIMM = """
    beit_base_patch16_224 halonet_h1 mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_zepto_rms crossvit_tiny_240 cs3darknet_focus_s davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c
    dpn48b edgenext_xx_small efficientformer_l1 efficientformerv2_s0 mobilenetv2_035 efficientvit_b0
    efficientvit_m0 eva02_tiny_patch14_224 fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
    hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny hrnet_w18_small inception_next_atto
    inception_resnet_v2 inception_v3 inception_v4 levit_128s mambaout_femto maxvit_pico_rw_256 poolformerv2_s12
    gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base mobilevit_xxs mvitv2_tiny
    naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small nf_regnet_b0 pit_ti_224 pnasnet5large
    pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t resnetv2_18
    rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs
    swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224
    tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny vit_tiny_patch16_224
    vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224
    ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
    botnet26t_256 lambda_resnet26t gcresnet33ts repvgg_a0 resmlp_12_224 mixer_s32_224 coatnet_nano_rw_224
    convformer_s18 mixnet_s mobilenetv4_conv_small mobilenetv4_hybrid_medium fbnetc_100 efficientnet_b0
    seresnext26d_32x4d tf_efficientnetv2_b0 mobilevitv2_050
""".split()
"""The model with the fewest parameters of every model file; in the last lines, further kinds that share a file."""

FAMILIES = {
    "classification": Family("torchvision classification", lambda: _torchvision_names(""), _classifier),
    "segmentation": Family("torchvision segmentation", lambda: _torchvision_names("segmentation"), _segmentation),
    "detection": Family("torchvision detection", lambda: _torchvision_names("detection"), _detector),
    "video": Family("torchvision video", lambda: _torchvision_names("video"), _video),
    "timm": Family("timm, one model per file", lambda: TIMM, _timm),
    "huggingface": Family("Hugging Face", lambda: list(coverage_huggingface.ARCHITECTURES), _hugging_face),
}


@functools.cache
def every_model() -> list[tuple[str, str]]:
    """(family, name) of all models."""
    return [(key, name) for key, family in FAMILIES.items() for name in family.names()]


@torch.no_grad()
def calibrated(case: Case) -> torch.nn.Module:
    """The model with telling parameters and batch-norm statistics of its inputs, so that signals survive."""
    model = randomise(case.model)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    model.eval()
    for part in norms:
        part.momentum = 1.0
        part.train()
    if norms:
        inputs = tree_map(_doubled, case.inputs, is_leaf=lambda item: isinstance(item, list))
        model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return model.eval()


def _doubled(item: Any) -> Any:
    """A batch of two different samples: batch norm over one value per channel would divide by zero."""
    if isinstance(item, list):
        return [*item, *map(torch.rand_like, item)]
    if isinstance(item, torch.Tensor) and item.is_floating_point() and item.dim() > 3:
        return torch.cat([item, torch.randn_like(item)])
    return item
