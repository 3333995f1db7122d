//! Makes checkpoints on the spot: one that writes what a test has it write, and one of another mode.

use serde_json::{Value, json};
use std::path::Path;

/// The spelling of a byte in byte-level BPE.
fn spelled(byte: u8) -> char {
    let kept = |byte: u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..byte).filter(|other| !kept(*other)).count() as u32;
    if kept(byte) { char::from(byte) } else { char::from_u32(256 + others).unwrap() }
}

const SPECIALS: [&str; 6] =
    ["<[pad]>", "<[end]>", "<[fim-prefix]>", "<[fim-suffix]>", "<[fim-middle]>", "<[MASK_TOKEN]>"];

/// An autoregressive checkpoint that answers every prompt with these pieces, all different, and ends: its layers add
/// nothing, so the next token depends on the last one alone. It has a chat template.
pub fn scripted(folder: &Path, pieces: &[&str]) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let mut tokens: Vec<String> = SPECIALS.map(str::to_owned).into();
    tokens.extend((0..=255).map(|byte| spelled(byte).to_string()));
    let mut chain: Vec<usize> = Vec::new();
    for piece in pieces {
        let piece: String = piece.bytes().map(spelled).collect();
        let id = tokens.iter().position(|token| *token == piece).unwrap_or(tokens.len());
        if id == tokens.len() {
            tokens.push(piece);
        }
        chain.push(id);
    }
    chain.push(1);
    let (vocab, hidden) = (tokens.len(), (chain.len() + 2).next_multiple_of(32));
    let added: Vec<Value> = SPECIALS.iter().enumerate().map(|(id, name)| json!({"id": id, "content": name,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})).collect();
    let ids: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": ids, "merges": []}});
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
        "hidden_size": hidden, "intermediate_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 1,
        "num_key_value_heads": 1, "max_position_embeddings": 4096, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": false, "hidden_act": "silu", "eos_token_id": 1, "pad_token_id": 0,
        "torch_dtype": "float32"});
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let template = json!({"chat_template": "{{ messages[0].content }}[go]"});
    std::fs::write(folder.join("tokenizer_config.json"), template.to_string()).unwrap();

    let (mut embedding, mut head) = (vec![0f32; vocab * hidden], vec![0f32; vocab * hidden]);
    for token in 0..vocab {
        let after = chain[..chain.len() - 1].iter().position(|id| *id == token);
        embedding[token * hidden + after.map_or(0, |place| place + 1)] = 1.0;
    }
    for (place, token) in chain.iter().enumerate() {
        head[token * hidden + place] = 20.0;
    }
    let square = vec![0f32; hidden * hidden];
    let ones = vec![1f32; hidden];
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, hidden], embedding),
        ("lm_head.weight".to_owned(), vec![vocab, hidden], head),
        ("model.norm.weight".to_owned(), vec![hidden], ones.clone()),
    ];
    for name in [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ] {
        tensors.push((
            format!("model.layers.0.{name}.weight"),
            vec![hidden, hidden],
            square.clone(),
        ));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.0.{name}.weight"), vec![hidden], ones.clone()));
    }
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let begin = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        header.insert(
            name,
            json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
        );
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    folder.display().to_string()
}

/// The tiny model of the fixtures as an autoregressive one, with a tokenizer that has neither FIM tokens nor a chat
/// template; in a new folder of `folder`.
pub fn autoregressive(folder: &Path) -> String {
    let tiny = crate::golden().join("models/tiny_untied");
    let config = std::fs::read_to_string(tiny.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["architectures"] = json!(["LlamaForCausalLM"]);
    for key in ["mask_token_id", "block_size"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let target = folder.join("autoregressive");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(tiny.join("model.safetensors"), target.join("model.safetensors")).unwrap();
    let tokenizer = crate::fixture("tokenizer/byte-fallback.json");
    std::fs::copy(tokenizer, target.join("tokenizer.json")).unwrap();
    target.display().to_string()
}
