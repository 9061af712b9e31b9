"""The tests that Transformers runs over its own models, configurations and feature extractors, run over ours."""

import inspect
import tempfile
import unittest
from unittest import mock

import pytest
import torch
from helpers import transformers_suite
from helpers.text_audio import TOWER, text_audio_config

from musicfm_hf.model.configuration_musicfm import MusicFMConfig
from musicfm_hf.model.feature_extraction_musicfm import MusicFMFeatureExtractor
from musicfm_hf.model.modeling_musicfm import (
    MusicFMForAudioClassification,
    MusicFMForAudioFrameClassification,
    MusicFMForPreTraining,
    MusicFMModel,
)
from musicfm_hf.model.modeling_text_audio_musicfm import MusicFMTextAudioModel

modeling = transformers_suite.load("test_modeling_common")
configuration = transformers_suite.load("test_configuration_common")
feature_extraction = transformers_suite.load("test_sequence_feature_extraction_common")

# Why a test of the suite may skip. The first group holds on every machine: such a test must skip.
NO_TOKENS = "audio in, so there are no tokens, no embeddings of them and no inputs_embeds"
NO_LANGUAGE_HEAD = "no language modelling head"
NOT_COMPOSITE = "one model with one configuration, no parts"
NO_EXPERTS = "no mixture of experts"
ROPE = "the rotary embedding has a base and no other setting"
NO_PARALLEL_PLAN = "no plan for tensor parallelism"
NO_CONVERSION = "weights are saved under the names they have in the model"
NO_FP32_MODULES = "skips the encoder, whose weights take the dtype asked for; the quantizer beside it is looked at"
NO_SLIDING_WINDOW = "attention over all frames, no sliding window"
# The second group depends on the version of the suite: there such a test may run, skip or not exist.
ONLY_NEWER = "the oldest suite that is supported does not have it; where it exists: no plan for tensor parallelism"
ONLY_NEW_MODELS = "the oldest suite that is supported runs it for files with a copyright line of 2023 or later only"
# The third group depends on the machine: such a test runs where it can.
GPU = "needs an accelerator (some also RUN_SLOW=1)"
FLASH = "needs an accelerator and a flash attention package or the kernels package"
DEEPSPEED = "needs deepspeed and an accelerator"
DEPENDS_ON_VERSION = {ONLY_NEWER, ONLY_NEW_MODELS}
DEPENDS_ON_MACHINE = {GPU, FLASH, DEEPSPEED}

EXPECTED_SKIPS = {
    "test_enable_input_require_grads_with_gradient_checkpointing": NO_TOKENS,
    "test_inputs_embeds": NO_TOKENS,
    "test_inputs_embeds_matches_input_ids": NO_TOKENS,
    "test_model_get_set_embeddings": NO_TOKENS,
    "test_resize_embeddings_untied": NO_TOKENS,
    "test_resize_embeddings_untied_no_reinit_on_post_init": NO_TOKENS,
    "test_resize_position_vector_embeddings": NO_TOKENS,
    "test_resize_tokens_embeddings": NO_TOKENS,
    "test_causal_lm_loss_honors_shift_labels": NO_LANGUAGE_HEAD,
    "test_encoder_decoder_loss_no_double_shift": NO_LANGUAGE_HEAD,
    "test_attn_implementation_composite_models": NOT_COMPOSITE,
    "test_can_set_attention_dynamically_composite_model": NOT_COMPOSITE,
    "test_internal_model_config_and_subconfig_are_same": NOT_COMPOSITE,
    "test_sdpa_can_dispatch_composite_models": NOT_COMPOSITE,
    "test_eager_matches_batched_and_grouped_inference_0_fp16": NO_EXPERTS,
    "test_eager_matches_batched_and_grouped_inference_1_fp32": NO_EXPERTS,
    "test_eager_matches_batched_and_grouped_inference_2_bf16": NO_EXPERTS,
    "test_moe_models_record_router_logits": NO_EXPERTS,
    "test_output_router_logits_from_config": NO_EXPERTS,
    "test_model_rope_scaling_frequencies": ROPE,
    "test_model_rope_scaling_from_config_0_linear": ROPE,
    "test_model_rope_scaling_from_config_1_dynamic": ROPE,
    "test_model_rope_scaling_from_config_2_yarn": ROPE,
    "test_model_rope_with_partial_rotation": ROPE,
    "test_vision_axial_rope": ROPE,
    "test_tp_plan_matches_params": NO_PARALLEL_PLAN,
    "test_can_load_from_already_mapped_keys": NO_CONVERSION,
    "test_reverse_loading_mapping": NO_CONVERSION,
    "test_keep_in_fp32_modules_exist": NO_FP32_MODULES,
    "test_sliding_window_mask": NO_SLIDING_WINDOW,
    "test_tied_head_has_a_tp_plan_entry": ONLY_NEWER,
    "test_can_init_all_missing_weights": ONLY_NEW_MODELS,
    "test_can_load_with_device_context_manager": GPU,
    "test_can_load_with_global_device_set": GPU,
    "test_cpu_offload": GPU,
    "test_disk_offload_bin": GPU,
    "test_disk_offload_safetensors": GPU,
    "test_flex_attention_with_grads": GPU,
    "test_model_parallelism": GPU,
    "test_sdpa_can_compile_dynamic": GPU,
    "test_sdpa_can_dispatch_on_flash": GPU,
    "test_torch_compile_for_training": GPU,
    "test_flash_attn_2_can_compile_with_attention_mask_None_without_graph_break": FLASH,
    "test_flash_attn_2_can_dispatch_composite_models": FLASH,
    "test_flash_attn_2_fp32_ln": FLASH,
    "test_flash_attn_2_from_config": FLASH,
    "test_flash_attn_2_inference_equivalence": FLASH,
    "test_flash_attn_2_inference_equivalence_right_padding": FLASH,
    "test_flash_attn_3_can_dispatch_composite_models": FLASH,
    "test_flash_attn_3_from_config": FLASH,
    "test_flash_attn_3_inference_equivalence": FLASH,
    "test_flash_attn_3_inference_equivalence_right_padding": FLASH,
    "test_flash_attn_4_can_dispatch_composite_models": FLASH,
    "test_flash_attn_4_from_config": FLASH,
    "test_flash_attn_4_inference_equivalence": FLASH,
    "test_flash_attn_4_inference_equivalence_right_padding": FLASH,
    "test_flash_attn_kernels_inference_equivalence": FLASH,
    "test_flash_attn_kernels_mps_inference_equivalence": FLASH,
    "test_kernels_can_load_without_crashing": FLASH,
    "test_resize_embeddings_untied_with_deepspeed": DEEPSPEED,
    "test_resize_embeddings_untied_with_deepspeed_multi_gpu": DEEPSPEED,
    "test_resize_tokens_embeddings_with_deepspeed": DEEPSPEED,
    "test_resize_tokens_embeddings_with_deepspeed_multi_gpu": DEEPSPEED,
}

# The same for the model with two towers.
IN_THE_PARTS = "hidden states and attentions are in the outputs of the towers, as those of CLAP"
ONE_INPUT = "passes one input alone, but the model needs both"
NOT_FOR_TWO_TOWERS = {
    "test_attention_outputs": IN_THE_PARTS,
    "test_hidden_states_output": IN_THE_PARTS,
    "test_retain_grad_hidden_states_attentions": IN_THE_PARTS,
    "test_inputs_embeds": "takes tokens only, as CLAP does",
    "test_keep_in_fp32_modules": "has no such modules",
    "test_resize_position_vector_embeddings": "positions of XLM-RoBERTa, which Transformers does not resize either",
    "test_sdpa_can_dispatch_non_composite_models": "two encoders, each with its configuration",
} | {
    name: ONE_INPUT for name in dir(modeling.ModelTesterMixin) if name.startswith("test_eager_matches_sdpa_inference_")
}

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "hidden_dropout": 0.0,
    "activation_dropout": 0.0,
    "attention_dropout": 0.0,
    "conformer_conv_dropout": 0.0,
    "conv_depthwise_kernel_size": 7,
    "num_mel_bins": 16,
    "subsampling_conv_channels": 8,
    "codebook_size": 16,
    "codebook_dim": 4,
}


class OnlyExpectedSkips:
    """Makes a failure of every skip that is not in `expected_skips`, and of every test there that could run here."""

    expected_skips = EXPECTED_SKIPS

    def skipTest(self, reason):  # noqa: N802
        if self._testMethodName not in self.expected_skips:
            self.fail(f"It is not in EXPECTED_SKIPS, but wants to skip: {reason}")
        self.has_skipped = True
        super().skipTest(reason)

    def tearDown(self):
        reason = self.expected_skips.get(self._testMethodName, GPU)
        if reason not in DEPENDS_ON_MACHINE | DEPENDS_ON_VERSION and not getattr(self, "has_skipped", False):
            self.fail("It runs, so it has no place in EXPECTED_SKIPS.")

    def test_decorated_skips_are_expected(self):
        """A decorator skips without calling `skipTest`."""
        skipped = {name for name, test in inspect.getmembers(self) if getattr(test, "__unittest_skip__", False)}
        self.assertLessEqual(skipped, {name for name, why in self.expected_skips.items() if why in DEPENDS_ON_MACHINE})


class MusicFMModelTester:
    """A small model and a batch for it, whose first item is padded since that is the one that is also run alone."""

    is_training = True
    hidden_size = SMALL["hidden_size"]
    num_attention_heads = SMALL["num_attention_heads"]
    num_hidden_layers = SMALL["num_hidden_layers"]
    samples = (6000, 9600, 4321)
    batch_size = len(samples)
    seq_length = 10  # 9600 samples are 40 mel frames, halved twice
    label_frames = 10  # the last frame ends at 9.5

    settings = SMALL

    def prepare_config_and_inputs(self):
        input_values = torch.empty(self.batch_size, max(self.samples), device=modeling.torch_device).uniform_(-1, 1)
        samples = torch.tensor(self.samples, device=modeling.torch_device)[:, None]
        attention_mask = (torch.arange(max(self.samples), device=modeling.torch_device) < samples).long()
        return MusicFMConfig(**self.settings), input_values, attention_mask

    def prepare_targets(self, batch_size):
        """Tokens, and two frames of three that are masked."""
        frame = torch.arange(self.seq_length, device=modeling.torch_device).repeat(batch_size, 1)
        return {"target_tokens": frame[..., None] % SMALL["codebook_size"], "mask_time_indices": frame % 3 > 0}

    def prepare_config_and_inputs_for_common(self):
        config, input_values, attention_mask = self.prepare_config_and_inputs()
        return config, {"input_values": input_values, "attention_mask": attention_mask}


class MusicFMWaveformModelTester(MusicFMModelTester):
    settings = SMALL | {
        "encoder_type": "bert",
        "front_end": "waveform",
        "conv_dim": [8] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "mask_type": "embedding",
        "hop_length": 320,
    }
    seq_length = 29  # of 9600 samples, in steps of 320
    label_frames = 30  # the first frame is centered at 0.625, so the last one ends at 29.125


class MusicFMConvNextModelTester(MusicFMModelTester):
    settings = SMALL | {
        "front_end": "convnext",
        "convnext_channels": [16, SMALL["hidden_size"]],
        "convnext_depths": [1, 1],
        "subsampling_time_strides": [2, 2],
        "conformer_conv_norm": "layer_norm",
        "rotary_after_projection": True,
        "use_final_layer_norm": False,
    }


class MusicFMModelTest(OnlyExpectedSkips, modeling.ModelTesterMixin, unittest.TestCase):
    # Frames come last: where a configuration has no rate for their labels, they set it.
    all_model_classes = (
        MusicFMModel,
        MusicFMForPreTraining,
        MusicFMForAudioClassification,
        MusicFMForAudioFrameClassification,
    )
    test_resize_embeddings = False
    # The suite reads a model's year from its copyright line, and spares old models this test; ours has no such line.
    test_can_init_all_missing_weights_before_2023 = True

    @pytest.mark.slow  # it loads each model class fourteen times
    def test_bc_torch_dtype(self):
        super().test_bc_torch_dtype()

    @classmethod
    def setUpClass(cls):
        # So small a model gains nothing from a second thread, and loses much when another process has that core.
        cls.addClassCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        names = {**modeling.MODEL_MAPPING_NAMES, MusicFMConfig.model_type: MusicFMModel.__name__}
        cls.enterClassContext(mock.patch.object(modeling, "MODEL_MAPPING_NAMES", names))
        cls.enterClassContext(mock.patch.object(modeling, "MODEL_MAPPING", {MusicFMConfig: MusicFMModel}))

    def setUp(self):
        self.model_tester = MusicFMModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """
        Pretraining would draw a mask and make tokens: give it both, so that two calls agree. Heads need labels, of the
        suite's kind, that the suite gives to models of Transformers only.
        """
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        batch_size = len(inputs["input_values"])
        if model_class is MusicFMForPreTraining:
            inputs |= self.model_tester.prepare_targets(batch_size)
        elif model_class is not MusicFMModel and return_labels:
            frames = (self.model_tester.label_frames,) * (model_class is MusicFMForAudioFrameClassification)
            inputs["labels"] = torch.zeros(batch_size, *frames, dtype=torch.long, device=modeling.torch_device)
            if self.model_tester.settings.get("mask_type") == "embedding":  # else the learned vector has no gradient
                inputs["mask_time_indices"] = self.model_tester.prepare_targets(batch_size)["mask_time_indices"]
        return inputs

    def test_expected_skips_exist(self):
        missing = {name for name, why in self.expected_skips.items() if why != ONLY_NEWER and not hasattr(self, name)}
        self.assertEqual(missing, set())

    def test_model_get_set_embeddings(self):
        self.skipTest(EXPECTED_SKIPS[self._testMethodName])

    def test_can_capture_specific_layers_hidden_states(self):
        """In place of the suite's test, which skips models like ours that record from more than one class."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(config).to(modeling.torch_device).eval()
            prepared = self._prepare_for_class(inputs, model_class)
            every = model(**prepared, output_hidden_states=True).hidden_states
            some = model(**prepared, output_hidden_states=[0, 2]).hidden_states
            self.assertEqual([state is None for state in some], [False, True, False])
            torch.testing.assert_close((some[0], some[2]), (every[0], every[2]))

    def test_model_outputs_equivalence(self):
        """In place of the suite's test, which subtracts outputs from each other and so cannot have a bool one."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        config._attn_implementation = "eager"
        for model_class in self.all_model_classes:
            model = model_class(config).to(modeling.torch_device).eval()
            prepared = self._prepare_for_class(inputs, model_class)
            asked = {"output_hidden_states": True, "output_attentions": True}
            as_dict = model(**prepared, **asked)
            as_tuple = model(**prepared, **asked, return_dict=False)
            self.assertEqual([len(as_dict["hidden_states"]), len(as_dict["attentions"])], [3, 2])
            torch.testing.assert_close(as_tuple, as_dict.to_tuple())

    def test_keep_in_fp32_modules(self):
        """In place of the suite's test, whose oldest version wants the batch norms' counters in half precision."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        with tempfile.TemporaryDirectory() as folder:
            MusicFMForPreTraining(config).save_pretrained(folder)
            for dtype in (torch.float16, torch.bfloat16):
                tensors = MusicFMForPreTraining.from_pretrained(folder, dtype=dtype).state_dict()
                kept = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
                self.assertEqual(kept, {"quantizer.projection", "quantizer.codebook"})
                self.assertEqual(tensors["head.weight"].dtype, dtype)


class MusicFMWaveformModelTest(MusicFMModelTest):
    """The same of MERT's shape: convolutions on the waveform, positions from a convolution, masks in the encoder."""

    def setUp(self):
        self.model_tester = MusicFMWaveformModelTester()


class MusicFMConvNextModelTest(MusicFMModelTest):
    """The same of MERT-v2's shape: ConvNeXt over mel bands, layer norm in the convolution module, no final norm."""

    def setUp(self):
        self.model_tester = MusicFMConvNextModelTester()


class MusicFMTextAudioModelTester:
    """A small model with two towers, and three songs of one clip with their texts; the first of both is padded."""

    is_training = True
    batch_size = 3
    hidden_size = SMALL["hidden_size"]
    num_attention_heads = SMALL["num_attention_heads"]
    num_hidden_layers = SMALL["num_hidden_layers"]
    samples = (14000, 23000, 13000)

    def prepare_config_and_inputs_for_common(self):
        text = text_audio_config().text_config.to_dict()
        text |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        # The suite expects of each tower the width of its encoder.
        config = text_audio_config(
            audio_config=dict(SMALL),
            text_config=text,
            audio_transformer=TOWER | {"hidden_size": SMALL["hidden_size"]},
            text_transformer=TOWER | {"hidden_size": text["hidden_size"]},
        )
        device = modeling.torch_device
        input_values = torch.empty(self.batch_size, max(self.samples), device=device).uniform_(-1, 1)
        samples = torch.tensor(self.samples, device=device)[:, None]
        input_ids = torch.randint(4, text["vocab_size"], (self.batch_size, 7), device=device)
        input_ids[0, 5:] = text["pad_token_id"]
        return config, {
            "input_ids": input_ids,
            "attention_mask": (input_ids != text["pad_token_id"]).long(),
            "input_values": input_values,
            "audio_attention_mask": (torch.arange(max(self.samples), device=device) < samples).long(),
        }


class MusicFMTextAudioModelTest(OnlyExpectedSkips, modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (MusicFMTextAudioModel,)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True

    # The text tower has tokens and embeddings of them.
    expected_skips = {
        name: why for name, why in EXPECTED_SKIPS.items() if why not in (NOT_COMPOSITE, NO_TOKENS)
    } | NOT_FOR_TWO_TOWERS

    @pytest.mark.slow  # it loads each model class fourteen times
    def test_bc_torch_dtype(self):
        super().test_bc_torch_dtype()

    @classmethod
    def setUpClass(cls):
        cls.addClassCleanup(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)

    def setUp(self):
        if (why := NOT_FOR_TWO_TOWERS.get(self._testMethodName)) in (IN_THE_PARTS, ONE_INPUT):
            self.skipTest(why)
        self.model_tester = MusicFMTextAudioModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The loss needs no labels."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        return inputs | ({"return_loss": True} if return_labels else {})

    def test_expected_skips_exist(self):
        missing = {name for name, why in self.expected_skips.items() if why != ONLY_NEWER and not hasattr(self, name)}
        self.assertEqual(missing, set())

    def test_sdpa_can_dispatch_composite_models(self):
        """In place of the suite's test, which takes a tower, whose attention is that of the model, for an encoder."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        with tempfile.TemporaryDirectory() as folder:
            MusicFMTextAudioModel(config).save_pretrained(folder)
            for attention in ("sdpa", "eager"):
                model = MusicFMTextAudioModel.from_pretrained(folder, attn_implementation=attention)
                parts = (model, model.audio_model, model.audio_tower, model.text_model, model.text_tower)
                self.assertEqual({part.config._attn_implementation for part in parts}, {attention})
            mixed = MusicFMTextAudioModel.from_pretrained(
                folder, attn_implementation={"": "sdpa", "audio_config": "eager", "text_config": "sdpa"}
            )
            parts = (mixed, mixed.audio_model, mixed.text_model)
            self.assertEqual([part.config._attn_implementation for part in parts], ["sdpa", "eager", "sdpa"])

    def test_eager_matches_sdpa(self):
        """In place of the suite's tests, which pass one input alone."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        model = MusicFMTextAudioModel(config).to(modeling.torch_device).eval()
        for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 3e-2)):
            outputs = []
            for attention in ("eager", "sdpa"):
                model.to(dtype).set_attn_implementation(attention)
                with torch.no_grad():
                    outputs.append(model(**inputs))
            for name in ("audio_embeds", "text_embeds"):
                torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=0, atol=tolerance)


class MusicFMConfigTest(OnlyExpectedSkips, unittest.TestCase):
    def test_config(self):
        tester = configuration.ConfigTester(self, config_class=MusicFMConfig, has_text_modality=False, **SMALL)
        tester.run_common_tests()


class MusicFMFeatureExtractorTester:
    batch_size = 7
    feature_size = 1
    min_seq_length = 400
    max_seq_length = 2000
    seq_length_diff = (max_seq_length - min_seq_length) // (batch_size - 1)

    def prepare_feat_extract_dict(self):
        return {
            "feature_size": self.feature_size,
            "sampling_rate": 16000,
            "padding_value": 0.0,
            "return_attention_mask": True,
            "min_samples": 300,
        }

    def prepare_inputs_for_common(self, equal_length=False, numpify=False):
        lengths = range(self.min_seq_length, self.max_seq_length, self.seq_length_diff)
        waveforms = [torch.rand(self.max_seq_length if equal_length else length).numpy() for length in lengths]
        return waveforms if numpify else [waveform.tolist() for waveform in waveforms]


class MusicFMFeatureExtractorTest(
    OnlyExpectedSkips, feature_extraction.SequenceFeatureExtractionTestMixin, unittest.TestCase
):
    feature_extraction_class = MusicFMFeatureExtractor

    def setUp(self):
        self.feat_extract_tester = MusicFMFeatureExtractorTester()
