//! Tests that configurations survive writing and reading, and which are refused.

use std::num::NonZeroUsize;

use super::*;
use crate::CachePrecision;
use crate::memory::Workload;

fn with(field: &str, value: Value) -> String {
    let mut map: Map<String, Value> = serde_json::from_str(&Config::default().to_json()).unwrap();
    map.insert(field.to_owned(), value);
    serde_json::to_string(&map).unwrap()
}

fn refusal(field: &str, value: Value) -> String {
    Config::from_json(&with(field, value)).unwrap_err().to_string()
}

#[test]
fn a_configuration_survives_writing_and_reading() {
    let block_diffusion =
        Mode::BlockDiffusion { block_size: NonZeroUsize::new(8).unwrap(), mask_token_id: Some(7) };
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let plain = Config::default();
    let biased = Parts { attention_bias: true, ..Parts::NONE };
    for config in [
        plain.clone(),
        Config { mode: block_diffusion, eos_token_ids: vec![2, 9], ..plain.clone() },
        Config { rope_scaling: llama3, dtype: Some(StorageDtype::BF16), ..plain.clone() },
        Config { rope_scaling: RopeScaling::Linear { factor: 2.0 }, ..plain.clone() },
        Config { parts: biased, ..plain.clone() },
        Config { parts: Parts { attention_output_bias: true, ..biased }, ..plain.clone() },
        Config { parts: Parts { qk_norm: true, ..Parts::NONE }, head_dim: 16, ..plain.clone() },
        Config { parts: Parts { qk_norm: true, ..biased }, mode: block_diffusion, ..plain.clone() },
        Config { bos_token_id: None, pad_token_id: None, eos_token_ids: vec![], ..plain },
    ] {
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config, "{}", config.to_json());
    }
}

#[test]
fn block_diffusion_is_written_under_the_released_name() {
    let mode = Mode::BlockDiffusion { block_size: NonZeroUsize::MIN, mask_token_id: Some(5) };
    let json: Value =
        serde_json::from_str(&Config { mode, ..Config::default() }.to_json()).unwrap();
    assert_eq!(json["architectures"], serde_json::json!(["StableDiffcoderForCausalLM"]));
    assert_eq!(json["model_type"], "llama");
    assert_eq!((&json["block_size"], &json["mask_token_id"]), (&1.into(), &5.into()));
}

#[test]
fn the_released_name_alone_means_blocks_of_four_and_mask_five() {
    let text = with("architectures", serde_json::json!(["StableDiffcoderForCausalLM"]));
    let config = Config::from_json(&text).unwrap();
    assert_eq!(config.block_size().map(NonZeroUsize::get), Some(4));
    assert_eq!(config.mask_token_id(), Some(5));
}

#[test]
fn a_mask_without_a_block_size_does_not_make_block_diffusion() {
    let config = Config::from_json(&with("mask_token_id", 5.into())).unwrap();
    assert_eq!(config.mode, Mode::Autoregressive);
    assert_eq!(config.extra["mask_token_id"], 5, "kept for writing back");
}

#[test]
fn newer_files_hold_rope_in_rope_parameters_and_dtype() {
    let mut map: Map<String, Value> = serde_json::from_str(&Config::default().to_json()).unwrap();
    map.remove("rope_theta");
    map.insert("dtype".into(), "bfloat16".into());
    map.insert(
        "rope_parameters".into(),
        serde_json::json!({"rope_type": "linear", "factor": 4, "rope_theta": 5e5}),
    );
    let config = Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap();
    assert_eq!(config.rope_theta, 5e5);
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    assert_eq!(config.dtype, Some(StorageDtype::BF16));
}

#[test]
fn qwen2_has_biases_on_queries_keys_and_values_only() {
    let mut map: Map<String, Value> =
        serde_json::from_str(&with("model_type", "qwen2".into())).unwrap();
    map.remove("architectures");
    map.remove("attention_bias");
    let config = Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap();
    assert_eq!(config.parts, Parts { attention_bias: true, ..Parts::NONE });
    let layer = &config.shapes().layers[3];
    assert!(layer.v.bias.is_some() && layer.o.bias.is_none() && layer.q_norm.is_none());
}

#[test]
fn an_impossible_value_is_refused_by_field_and_value() {
    for (field, value, shown) in [
        ("num_attention_heads", Value::from(0), "num_attention_heads = 0"),
        ("num_hidden_layers", 1_000_000_000.into(), "num_hidden_layers = 1000000000"),
        ("num_key_value_heads", 3.into(), "num_key_value_heads = 3"),
        ("head_dim", 7.into(), "head_dim = 7"),
        ("hidden_size", (-1).into(), "hidden_size = -1"),
        ("vocab_size", u64::MAX.into(), "vocab_size = 18446744073709551615"),
        ("rope_theta", "nan".into(), "rope_theta = \"nan\""),
        ("rope_theta", 0.into(), "rope_theta = 0"),
        ("rms_norm_eps", (-1e-6).into(), "rms_norm_eps = -0.000001"),
        ("hidden_act", "gelu".into(), "hidden_act = \"gelu\""),
        ("rope_scaling", serde_json::json!({"type": "yarn"}), "rope_scaling.rope_type = yarn"),
        ("architectures", serde_json::json!(["MambaForCausalLM"]), "MambaForCausalLM"),
        ("tie_word_embeddings", 1.into(), "tie_word_embeddings = 1"),
    ] {
        let message = refusal(field, value);
        assert!(message.contains(shown), "{message}");
    }
    let nan = Config { rope_theta: f64::NAN, ..Config::default() };
    assert!(nan.validate().unwrap_err().to_string().contains("rope_theta = NaN"));
}

#[test]
fn ids_that_nothing_needs_never_stop_a_checkpoint() {
    for field in ["pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"] {
        for none in [Value::Null, (-1).into(), Value::Array(vec![]), serde_json::json!([-1, null])]
        {
            let config = Config::from_json(&with(field, none.clone())).unwrap();
            assert!(config.ignored_ids.is_empty(), "{field} = {none}: {:?}", config.ignored_ids);
        }
        for odd in [Value::from(512), (-7).into(), "</s>".into(), u64::MAX.into(), 1.5.into()] {
            let config = Config::from_json(&with(field, odd.clone())).unwrap();
            let noted = [format!("{field} = {odd}")];
            let known = field != "decoder_start_token_id";
            assert_eq!(config.ignored_ids, if known { &noted[..] } else { &[] });
        }
    }
    let config = Config::from_json(&with("pad_token_id", (-1).into())).unwrap();
    assert_eq!(config.pad_token_id, None, "not written back as an id");
    assert_eq!(Config::from_json(&config.to_json()).unwrap(), config);
    let config =
        Config::from_json(&with("eos_token_id", serde_json::json!([2, 600, 2.0, 9]))).unwrap();
    assert_eq!(
        (config.eos_token_ids, config.ignored_ids),
        (vec![2, 9], vec!["eos_token_id = 600".into()])
    );
    let wrong = Config { eos_token_ids: vec![512], ..Config::default() };
    assert!(wrong.validate().unwrap_err().to_string().contains("eos_token_id = 512"));
}

#[test]
fn mask_is_missed_only_where_it_is_needed() {
    let mut map: Map<String, Value> =
        serde_json::from_str(&with("mask_token_id", (-1).into())).unwrap();
    assert_eq!(
        Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap().mode,
        Mode::Autoregressive
    );
    map.insert("architectures".into(), serde_json::json!(["SDARForCausalLM"]));
    for id in [Value::from(-1), Value::Null] {
        map.insert("mask_token_id".into(), id);
        let config = Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap();
        assert_eq!(
            (config.block_size().map(NonZeroUsize::get), config.mask_token_id()),
            (Some(4), None)
        );
        assert_eq!(Config::from_json(&config.to_json()).unwrap().mode, config.mode);
    }
}

#[test]
fn a_shifted_head_is_read_and_written_by_its_key_and_by_its_family() {
    let plain: Map<String, Value> = serde_json::from_str(&Config::default().to_json()).unwrap();
    let read = |family: bool, said: Option<Value>| {
        let mut map = plain.clone();
        map.extend(said.map(|said| ("logit_shift".to_owned(), said)));
        if family {
            map.insert("architectures".into(), serde_json::json!(["Fast_dLLM_QwenForCausalLM"]));
        }
        Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap()
    };
    for (family, said, predicts) in [
        (false, None, Predicts::Same),
        (false, Some(Value::Bool(true)), Predicts::Next),
        (false, Some(Value::Bool(false)), Predicts::Same),
        (true, None, Predicts::Next),
        (true, Some(Value::Bool(true)), Predicts::Next),
        (true, Some(Value::Bool(false)), Predicts::Same),
    ] {
        let config = read(family, said.clone());
        assert_eq!(config.predicts, predicts, "{family} {said:?}");
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), config, "{family} {said:?}");
        let written: Map<String, Value> = serde_json::from_str(&config.to_json()).unwrap();
        let expected = said.or(family.then_some(Value::Bool(true)));
        assert_eq!(written.get("logit_shift"), expected.as_ref());
    }
}

#[test]
fn the_attention_of_a_diffusion_model_is_read_and_written_where_it_is_not_block_causal() {
    let mode = Mode::BlockDiffusion { block_size: NonZeroUsize::MIN, mask_token_id: Some(5) };
    for attention in Attention::ALL {
        let config = Config { mode, attention, ..Config::default() };
        let text = config.to_json();
        assert_eq!(Config::from_json(&text).unwrap(), config);
        assert_eq!(text.contains("attention\": \"causal\""), attention == Attention::Causal);
        assert_eq!(text.contains("diffusion_attention"), attention != Attention::BlockCausal);
    }
    let plain: Map<String, Value> = serde_json::from_str(&Config::default().to_json()).unwrap();
    let read = |key: &str, value: Value| {
        let mut map = plain.clone();
        map.insert(key.to_owned(), value);
        Config::from_json(&serde_json::to_string(&map).unwrap())
    };
    for (value, shown) in [
        (serde_json::json!("sideways"), "sideways"),
        (serde_json::json!(""), "diffusion_attention"),
        (serde_json::json!(3), "3"),
        (serde_json::json!({"full": true}), "{\"full\":true}"),
    ] {
        let error = read("diffusion_attention", value).unwrap_err().to_string();
        assert!(error.contains("diffusion_attention") && error.contains(shown), "{error}");
    }
    // Said of itself, block-causal is what is taken anyway.
    for value in [serde_json::json!("block-causal"), Value::Null] {
        assert_eq!(read("diffusion_attention", value).unwrap(), Config::default());
    }
    // Another key, of whatever meaning to others, says nothing of it.
    let other = read("attention", serde_json::json!({"kind": 3})).unwrap();
    assert_eq!(other.attention, Attention::BlockCausal);
    assert!(other.extra.contains_key("attention"));
}

#[test]
fn a_family_s_name_counts_wherever_it_stands() {
    let plain: Map<String, Value> = serde_json::from_str(&Config::default().to_json()).unwrap();
    let read = |changes: Value| {
        let mut map = plain.clone();
        for field in ["architectures", "model_type", "qk_norm", "attention_bias"] {
            map.remove(field);
        }
        map.extend(changes.as_object().unwrap().clone());
        Config::from_json(&serde_json::to_string(&map).unwrap())
    };
    for (changes, family, block) in [
        (serde_json::json!({"model_type": "sdar"}), Family::Sdar, 4),
        (
            serde_json::json!({"model_type": "sdar", "architectures": ["Qwen3ForCausalLM"], "block_size": 16}),
            Family::Sdar,
            16,
        ),
        (
            serde_json::json!({"architectures": ["Qwen3ForCausalLM"], "_name_or_path": "JetLM/SDAR-4B-Chat-b8",
            "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}}),
            Family::Sdar,
            8,
        ),
        (
            serde_json::json!({"architectures": ["A2DQwen2LMHeadModel"], "model_type": "a2d-qwen2"}),
            Family::A2dQwen2,
            32,
        ),
        (serde_json::json!({"model_type": "a2d-qwen3"}), Family::A2dQwen3, 32),
        (
            serde_json::json!({"architectures": ["Fast_dLLM_QwenForCausalLM"], "bd_size": 8}),
            Family::FastDllm,
            8,
        ),
        (
            serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "bd_size": 32}),
            Family::FastDllm,
            32,
        ),
    ] {
        let config = read(changes.clone()).unwrap();
        assert_eq!(
            (config.family, config.block_size().unwrap().get()),
            (Some(family), block),
            "{changes}"
        );
        let is_normed = matches!(family, Family::Sdar | Family::A2dQwen3);
        let is_biased = matches!(family, Family::A2dQwen2 | Family::FastDllm);
        assert_eq!((config.parts.qk_norm, config.parts.attention_bias), (is_normed, is_biased));
        assert_eq!(config.predicts == Predicts::Next, family == Family::FastDllm);
        assert_eq!(config.architecture(), family.table().announced.0);
        // All fields but the one that names code of others, which no checkpoint of ours asks anyone to run.
        let mut kept = config.clone();
        kept.extra.remove("auto_map");
        assert_eq!(Config::from_json(&config.to_json()).unwrap(), kept);
    }
    for (field, changes) in [
        (
            "LLaDAModelLM",
            serde_json::json!({"architectures": ["LLaDAModelLM"], "model_type": "llada"}),
        ),
        ("llada", serde_json::json!({"model_type": "llada"})),
        ("DreamModel", serde_json::json!({"architectures": ["DreamModel"], "model_type": "Dream"})),
        (
            "Dream",
            serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "Dream"}),
        ),
        ("CoDALanguageModel", serde_json::json!({"architectures": ["CoDALanguageModel"]})),
        (
            "DreamModel",
            serde_json::json!({"architectures": ["Qwen2ForCausalLM"],
            "auto_map": {"AutoModel": "modeling_dream.DreamModel"}}),
        ),
        ("SDARMoeForCausalLM", serde_json::json!({"architectures": ["SDARMoeForCausalLM"]})),
        (
            "Open-dCoder",
            serde_json::json!({"model_type": "qwen2", "_name_or_path": "x/Open-dCoder-0.5B"}),
        ),
        (
            "mdlm",
            serde_json::json!({"model_type": "a2d-qwen2", "_name_or_path": "Qwen2.5-Coder-0.5B-diffusion-mdlm"}),
        ),
    ] {
        let error = read(changes).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("diffusion"), "{error}");
    }
}

#[test]
fn without_a_head_dim_the_heads_must_divide_the_hidden_size() {
    let mut map: Map<String, Value> =
        serde_json::from_str(&with("num_attention_heads", 6.into())).unwrap();
    map.remove("head_dim");
    let error = Config::from_json(&serde_json::to_string(&map).unwrap()).unwrap_err();
    assert!(error.to_string().contains("hidden_size = 64"), "{error}");
}

#[test]
fn unknown_fields_are_carried_through() {
    let config = Config::from_json(&with("invented", serde_json::json!([1, {"a": 2}]))).unwrap();
    let json: Value = serde_json::from_str(&config.to_json()).unwrap();
    assert_eq!(json["invented"], serde_json::json!([1, {"a": 2}]));
}

#[test]
fn the_parameter_count_is_the_sum_over_the_tensor_list() {
    let eight_b = Config {
        vocab_size: 155_136,
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_layers: 32,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 128,
        max_position_embeddings: 8192,
        ..Config::default()
    };
    let parts = Parts { attention_bias: true, attention_output_bias: true, ..Parts::NONE };
    let parts = Parts { mlp_bias: true, qk_norm: true, ..parts };
    let biased = Config { parts, ..Config::default() };
    let tied = Config { tie_word_embeddings: true, ..Config::default() };
    for config in [&eight_b, &biased, &tied] {
        let sum: usize =
            config.expected_tensors().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!(config.parameter_count(), sum as u64);
    }
    assert_eq!(eight_b.parameter_count() / 10_000_000, 825, "about 8.25 B");
    assert_eq!(
        eight_b.memory(StorageDtype::BF16, Workload::decoding(0)).weights,
        2 * eight_b.parameter_count()
    );
    let bytes = |precision| eight_b.cache_bytes_per_token(precision);
    assert_eq!(bytes(CachePrecision::F32), 2 * 32 * 8 * 128 * 4);
    assert_eq!(bytes(CachePrecision::BF16), 2 * 32 * 8 * 128 * 2);
    assert_eq!(bytes(CachePrecision::Q8_0), 2 * 32 * 8 * 4 * 34);
}

#[test]
fn llama3_scaling_keeps_short_wavelengths_and_divides_long_ones() {
    let rope_scaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let config = Config { head_dim: 128, rope_theta: 5e5, rope_scaling, ..Config::default() };
    let plain = Config { rope_scaling: RopeScaling::None, ..config.clone() };
    let ratio: Vec<f64> = plain
        .inverse_frequencies()
        .iter()
        .zip(config.inverse_frequencies())
        .map(|(plain, scaled)| plain / scaled)
        .collect();
    assert_eq!(ratio[0], 1.0);
    assert!((ratio[63] - 8.0).abs() < 1e-12);
    assert!(ratio.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12));
    assert!(ratio.iter().any(|&r| r > 1.0 && r < 8.0), "a ramp lies between");
}
