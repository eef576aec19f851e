"""Hugging Face architectures, small and with random weights: name -> (class, configuration, inputs).

Every entry is a class of transformers, the options of its configuration, and a function that makes its inputs.
"""

from collections.abc import Callable
from typing import Any

import torch

Inputs = dict[str, Any]
VOCABULARY = 200
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
LLAMA = BERT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PLAIN = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
IMAGE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
SPEECH = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 32,
}


def _tokens(length: int = 12) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (1, length))


def text() -> Inputs:
    """Token numbers."""
    return {"input_ids": _tokens()}


def decoder() -> Inputs:
    """Token numbers without a cache of keys and values, which is no output of interest."""
    return {"input_ids": _tokens(), "use_cache": False}


def long_decoder() -> Inputs:
    """More tokens, so that every expert is chosen by some."""
    return {"input_ids": _tokens(60), "use_cache": False}


def pairs() -> Inputs:
    """Token numbers for an encoder and for a decoder."""
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(6), "use_cache": False}


def image() -> Inputs:
    """A small image."""
    return {"pixel_values": torch.randn(1, 3, 32, 32)}


def larger_image() -> Inputs:
    """An image of 64 x 64."""
    return {"pixel_values": torch.randn(1, 3, 64, 64)}


def sound() -> Inputs:
    """Samples of a wave."""
    return {"input_values": torch.randn(1, 2000)}


def spectrogram() -> Inputs:
    """A spectrogram, and tokens for the decoder."""
    return {"input_features": torch.randn(1, 16, 64), "decoder_input_ids": _tokens(6), "use_cache": False}


def picture_and_text() -> Inputs:
    """An image and token numbers."""
    return image() | {"input_ids": torch.cat([_tokens(11), torch.full((1, 1), VOCABULARY - 1)], 1)}


def picture_and_points() -> Inputs:
    """An image and one point on it."""
    return larger_image() | {"input_points": torch.rand(1, 1, 1, 2) * 64}


Entry = tuple[str, dict[str, Any], Callable[[], Inputs]]

ARCHITECTURES: dict[str, Entry] = {
    "albert": ("AlbertForSequenceClassification", BERT | {"embedding_size": 32}, text),
    "bert": ("BertForSequenceClassification", BERT, text),
    "bert-masked-lm": ("BertForMaskedLM", BERT, text),
    "camembert": ("CamembertForSequenceClassification", BERT, text),
    "deberta": ("DebertaForSequenceClassification", BERT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}, text),
    "deberta-v2": ("DebertaV2ForSequenceClassification", BERT | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_buckets": 16}, text),
    "distilbert": ("DistilBertForSequenceClassification", {"vocab_size": VOCABULARY, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128}, text),
    "electra": ("ElectraForSequenceClassification", BERT | {"embedding_size": 32}, text),
    "mpnet": ("MPNetForSequenceClassification", BERT, text),
    "roberta": ("RobertaForSequenceClassification", BERT, text),
    "xlm-roberta": ("XLMRobertaForSequenceClassification", BERT, text),
    "bloom": ("BloomForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "n_layer": 2, "n_head": 4}, decoder),
    "falcon": ("FalconForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, decoder),
    "gemma": ("GemmaForCausalLM", LLAMA | {"head_dim": 16}, decoder),
    "gemma2": ("Gemma2ForCausalLM", LLAMA | {"head_dim": 16}, decoder),
    "gpt2": ("GPT2LMHeadModel", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}, decoder),
    "gpt-neo": ("GPTNeoForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64}, decoder),
    "gpt-neox": ("GPTNeoXForCausalLM", PLAIN, decoder),
    "gptj": ("GPTJForCausalLM", {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 8}, decoder),
    "llama": ("LlamaForCausalLM", LLAMA, decoder),
    "mistral": ("MistralForCausalLM", LLAMA, decoder),
    "mixtral": ("MixtralForCausalLM", LLAMA | {"num_local_experts": 4}, long_decoder),
    "olmo2": ("Olmo2ForCausalLM", LLAMA, decoder),
    "opt": ("OPTForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 64}, decoder),
    "phi": ("PhiForCausalLM", PLAIN, decoder),
    "phi3": ("Phi3ForCausalLM", LLAMA, decoder),
    "qwen2": ("Qwen2ForCausalLM", LLAMA, decoder),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | {"head_dim": 16}, decoder),
    "mamba": ("MambaForCausalLM", {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}, decoder),
    "bart": ("BartForConditionalGeneration", {"vocab_size": VOCABULARY, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64}, pairs),
    "t5": ("T5ForConditionalGeneration", {"vocab_size": VOCABULARY, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}, pairs),
    "whisper": ("WhisperForConditionalGeneration", {"vocab_size": VOCABULARY, "num_mel_bins": 16, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_source_positions": 32, "max_target_positions": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}, spectrogram),
    "hubert": ("HubertForCTC", SPEECH, sound),
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH, sound),
    "beit": ("BeitForImageClassification", IMAGE, image),
    "convnext": ("ConvNextForImageClassification", {"hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 2, 1], "image_size": 64}, larger_image),
    "deit": ("DeiTForImageClassification", IMAGE, image),
    "detr": ("DetrForObjectDetection", {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 10}, larger_image),
    "dinov2": ("Dinov2ForImageClassification", IMAGE, image),
    "resnet": ("ResNetForImageClassification", {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 2, 1]}, larger_image),
    "segformer": ("SegformerForSemanticSegmentation", {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 64}, larger_image),
    "swin": ("SwinForImageClassification", {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}, larger_image),
    "vit": ("ViTForImageClassification", IMAGE, image),
    "clip": ("CLIPModel", {"projection_dim": 32, "text_config": BERT | {"eos_token_id": VOCABULARY - 1, "bos_token_id": 1, "pad_token_id": 0}, "vision_config": IMAGE}, picture_and_text),
    "sam": ("SamModel", {"vision_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_dim": 128, "image_size": 64, "patch_size": 8, "output_channels": 32, "num_pos_feats": 16, "window_size": 4, "global_attn_indexes": [1]}, "prompt_encoder_config": {"hidden_size": 32, "image_size": 64, "patch_size": 8, "mask_input_channels": 8}, "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "iou_head_hidden_dim": 32}}, picture_and_points),
}  # fmt: skip


def build(name: str) -> tuple[torch.nn.Module, Inputs]:
    """A model in evaluation mode and its inputs."""
    import transformers

    kind, options, inputs = ARCHITECTURES[name]
    model_class = getattr(transformers, kind)
    configuration = model_class.config_class(**options)
    if name == "detr":
        sizes = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 128], "depths": [1, 1, 1, 1]}
        configuration.backbone_config = transformers.ResNetConfig(**sizes, out_features=["stage4"])
    return model_class(configuration).eval(), inputs()
