//! Writes the corpus of malformed checkpoints: one small file for each way to lie in it.
//!
//! ```text
//! cargo run -p lacuna-checkpoint --example make_hostile -- fixtures/hostile
//! ```
//!
//! `expected.tsv` lists every case with words that its error must contain, or with `opens` and the id that it opens
//! without; `valid/` holds the checkpoints that the cases are made from, which must open. `tests/hostile.rs` replays
//! all of it. The output is the same on every run and platform.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

fn main() -> std::io::Result<()> {
    let Some(out) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: make_hostile DIRECTORY");
        std::process::exit(2);
    };
    let mut corpus = Corpus { out, expected: Vec::new() };
    corpus.valid()?;
    corpus.gguf_containers()?;
    corpus.gguf_tensors()?;
    corpus.gguf_models()?;
    corpus.safetensors()?;
    corpus.configs()?;
    corpus.indexes()?;
    corpus.expected.sort();
    fs::write(corpus.out.join("expected.tsv"), corpus.expected.concat())
}

/// The counts and lengths that break arithmetic.
const EXTREMES: [(&str, u64); 4] =
    [("2p31", 1 << 31), ("2p32", 1 << 32), ("2p63", 1 << 63), ("2p64m1", u64::MAX)];

struct Corpus {
    out: PathBuf,
    expected: Vec<String>,
}

impl Corpus {
    fn put(&self, path: &str, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.out.join(path);
        fs::create_dir_all(path.parent().expect("joined to a directory"))?;
        fs::write(path, bytes)
    }

    fn expect(&mut self, path: &str, words: &str) {
        self.expected.push(format!("{path}\t{words}\n"));
    }

    fn gguf(&mut self, name: &str, words: &str, bytes: &[u8]) -> std::io::Result<()> {
        let path = format!("gguf/{name}.gguf");
        self.expect(&path, words);
        self.put(&path, bytes)
    }

    /// Adds a case: the valid file with a change.
    fn edit(
        &mut self,
        name: &str,
        words: &str,
        edit: impl FnOnce(&mut GgufFile),
    ) -> std::io::Result<()> {
        let mut file = GgufFile::valid();
        edit(&mut file);
        self.gguf(name, words, &file.bytes())
    }

    fn valid(&mut self) -> std::io::Result<()> {
        self.put("valid/model.gguf", &GgufFile::valid().bytes())?;
        self.put("valid/single/config.json", &text(&config()))?;
        self.put("valid/single/model.safetensors", &safetensors(&tensors()))?;
        let (first, second) = halves();
        self.put("valid/sharded/config.json", &text(&config()))?;
        self.put("valid/sharded/a.safetensors", &safetensors(&first))?;
        self.put("valid/sharded/b.safetensors", &safetensors(&second))?;
        self.put("valid/sharded/model.safetensors.index.json", &text(&index()))
    }

    fn gguf_containers(&mut self) -> std::io::Result<()> {
        self.gguf("empty", "bytes", b"")?;
        self.gguf("only_magic", "has 0 left", b"GGUF")?;
        self.edit("wrong_magic", "does not start with GGUF", |f| f.magic = *b"GGML")?;
        for version in [0, 1, 4] {
            let words = format!("version {version}");
            self.edit(&format!("version_{version}"), &words, |f| f.version = version)?;
        }
        self.edit("big_endian", "big-endian", |f| f.version = 3u32.swap_bytes())?;
        for (size, n) in EXTREMES {
            let words = format!("claims {n} tensor entries");
            self.edit(&format!("tensor_count_{size}"), &words, |f| f.tensor_count = Some(n))?;
            let words = format!("claims {n} metadata entries");
            self.edit(&format!("metadata_count_{size}"), &words, |f| f.metadata_count = Some(n))?;
            self.edit(&format!("text_length_{size}"), &format!("wants {n} bytes"), |f| {
                f.set("general.name", raw(8, &n.to_le_bytes()));
            })?;
            self.edit(&format!("array_length_{size}"), &format!("array of {n} values"), |f| {
                f.set(
                    "general.tags",
                    raw(9, &[&0u32.to_le_bytes()[..], &n.to_le_bytes()].concat()),
                );
            })?;
            self.edit(&format!("key_length_{size}"), &format!("a name of {n} bytes"), |f| {
                f.key_length = Some(n);
            })?;
            self.edit(&format!("name_length_{size}"), &format!("a name of {n} bytes"), |f| {
                f.name_length = Some(n);
            })?;
        }
        self.edit("tensor_count_0", "token_embd.weight", |f| f.tensor_count = Some(0))?;
        self.edit("tensor_count_1", "lacks", |f| f.tensor_count = Some(1))?;
        self.edit("metadata_count_0", "metadata", |f| f.metadata_count = Some(0))?;
        self.edit("array_of_arrays", "array of arrays", |f| {
            let mut nest = Vec::new();
            for _ in 0..50 {
                nest.extend_from_slice(&9u32.to_le_bytes());
                nest.extend_from_slice(&1u64.to_le_bytes());
            }
            f.set("general.tags", raw(9, &nest));
        })?;
        self.edit("array_of_unknown", "unknown value type 99", |f| {
            f.set(
                "general.tags",
                raw(9, &[&99u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()),
            );
        })?;
        self.edit("value_type_13", "unknown value type 13", |f| f.set("general.x", raw(13, &[])))?;
        self.edit("value_type_max", "unknown value type 4294967295", |f| {
            f.set("general.x", raw(u32::MAX, &[]));
        })?;
        self.edit("bool_2", "truth value of 2", |f| f.set("general.x", raw(7, &[2])))?;
        self.edit("text_not_utf8", "no UTF-8", |f| {
            f.set("general.x", raw(8, b"\x02\0\0\0\0\0\0\0\xff\xfe"));
        })?;
        self.edit("key_twice", "appears twice", |f| {
            f.metadata.push(("general.architecture".into(), string("llama")));
        })?;
        for (name, words, value) in [
            ("alignment_0", "is 0", u32_value(0)),
            ("alignment_3", "is 3", u32_value(3)),
            ("alignment_2p31", "is 2147483648", u32_value(1 << 31)),
            ("alignment_minus_1", "unsigned 32-bit", raw(5, &(-1i32).to_le_bytes())),
            ("alignment_text", "unsigned 32-bit", string("32")),
            ("alignment_u64", "unsigned 32-bit", raw(10, &32u64.to_le_bytes())),
        ] {
            self.edit(name, words, |f| f.set("general.alignment", value))?;
        }
        Ok(())
    }

    fn gguf_tensors(&mut self) -> std::io::Result<()> {
        let shapes: [(&str, &[u64], u32, &str); 12] = [
            ("rank_0", &[], 0, "0 dimensions"),
            ("rank_5", &[1, 1, 1, 1, 1], 0, "5 dimensions"),
            ("dim_0", &[0, 4], 0, "empty or too large"),
            ("product_wraps_to_0", &[1 << 33, 1 << 33], 0, "empty or too large"),
            ("product_wraps_to_16", &[(1 << 62) + 1, 4, 4], 0, "empty or too large"),
            ("bytes_wrap", &[1 << 62], 0, "does not divide into f32 blocks"),
            ("dim_2p63", &[1 << 63, 2], 0, "empty or too large"),
            ("dim_max", &[u64::MAX], 0, "f32"),
            ("q4_0_2p59", &[1 << 59, 32], 2, "empty or too large"),
            ("q4_0_partial_block", &[33, 4], 2, "q4_0 blocks of 32"),
            ("q4_k_partial_block", &[32, 4], 12, "q4_k blocks of 256"),
            ("rows_too_few", &[4, 6], 0, "leaves a gap"),
        ];
        for (name, dims, kind, words) in shapes {
            self.edit(name, words, |f| {
                f.tensors[0].dims = dims.to_vec();
                f.tensors[0].kind = kind;
            })?;
        }
        self.edit("rank_max", "4294967295 dimensions", |f| f.rank = Some(u32::MAX))?;
        for kind in [4, 16, u32::MAX] {
            let words = format!("ggml type {kind}");
            self.edit(&format!("type_{kind}"), &words, |f| f.tensors[0].kind = kind)?;
        }
        let offsets = [
            ("offset_3", 3, "no multiple of the alignment"),
            ("offset_gap", 1 << 12, "leaves a gap"),
            ("offset_2p63", 1 << 63, "leaves a gap"),
            ("offset_near_2p64", u64::MAX - 31, "leaves a gap"),
        ];
        for (name, offset, words) in offsets {
            self.edit(name, words, |f| f.tensors[1].offset = offset)?;
        }
        self.edit("offset_overlap", "overlaps", |f| f.tensors[1].offset = f.tensors[0].offset)?;
        self.edit("name_twice", "appears twice", |f| {
            f.tensors[1].name = f.tensors[0].name.clone();
        })?;
        self.edit("name_with_escapes", "\\u{1b}", |f| {
            f.tensors[1].name = "\x1b[2J".into();
            f.tensors[1].kind = 99;
        })?;
        self.edit("data_cut", "pass the file's end", |f| f.data.truncate(f.data.len() - 1))?;
        self.edit("data_gone", "pass the file's end", |f| f.data.clear())?;
        self.edit("past_the_end", "pass the file's end", |f| {
            f.tensors.last_mut().expect("there are some").dims = vec![4, 1 << 40];
        })
    }

    fn gguf_models(&mut self) -> std::io::Result<()> {
        let float = |x: f32| raw(6, &x.to_le_bytes());
        let values = [
            ("heads_0", "llama.attention.head_count", u32_value(0), "head_count = 0"),
            ("heads_3", "llama.attention.head_count", u32_value(3), "embedding_length = 4"),
            (
                "kv_heads_0",
                "llama.attention.head_count_kv",
                u32_value(0),
                "num_key_value_heads = 0",
            ),
            ("layers_1e9", "llama.block_count", u32_value(1_000_000_000), "= 1000000000"),
            ("layers_text", "llama.block_count", string("1"), "whole number"),
            ("layers_2", "llama.block_count", u32_value(2), "lacks"),
            ("context_0", "llama.context_length", u32_value(0), "max_position_embeddings = 0"),
            ("context_max", "llama.context_length", u32_value(u32::MAX), "= 4294967295"),
            ("theta_nan", "llama.rope.freq_base", float(f32::NAN), "freq_base = NaN"),
            ("theta_inf", "llama.rope.freq_base", float(f32::INFINITY), "freq_base = inf"),
            ("theta_0", "llama.rope.freq_base", float(0.0), "rope_theta = 0"),
            ("eps_nan", "llama.attention.layer_norm_rms_epsilon", float(f32::NAN), "NaN"),
            ("eps_negative", "llama.attention.layer_norm_rms_epsilon", float(-1.0), "= -1"),
            ("head_dim_odd", "llama.attention.key_length", u32_value(3), "head_dim = 3"),
            ("rope_part", "llama.rope.dimension_count", u32_value(1), "dimension_count = 1"),
            ("experts", "llama.expert_count", u32_value(8), "expert_count = 8"),
            ("vocab_9", "llama.vocab_size", u32_value(9), "vocab_size = 9"),
            (
                "eos_beyond",
                "tokenizer.ggml.eos_token_id",
                u32_value(8),
                "opens without tokenizer.ggml.eos_token_id = 8",
            ),
            ("eos_max", "tokenizer.ggml.eos_token_id", u32_value(u32::MAX), "opens"),
            ("bos_negative", "tokenizer.ggml.bos_token_id", raw(5, &[255; 4]), "opens"),
            ("block_size_0", "lacuna.block_size", u32_value(0), "block_size = 0"),
            ("architecture_unknown", "general.architecture", string("mamba"), "mamba"),
            ("architecture_number", "general.architecture", u32_value(1), "general.architecture"),
            ("scaling_yarn", "llama.rope.scaling.type", string("yarn"), "yarn"),
            ("tokens_number", "tokenizer.ggml.tokens", u32_value(1), "tokenizer.ggml.tokens"),
            ("pre_unknown", "tokenizer.ggml.pre", string("nonsense"), "nonsense"),
            ("model_unknown", "tokenizer.ggml.model", string("bert"), "bert"),
            ("merge_of_one", "tokenizer.ggml.merges", strings(&["ab"]), "apart by a space"),
            ("merges_129", "tokenizer.ggml.merges", strings(&["a b"; 129]), "at most 128"),
            ("tokens_9", "tokenizer.ggml.tokens", strings(&["x"; 9]), "at most 8"),
        ];
        for (name, key, value, words) in values {
            self.edit(name, words, |f| f.set(key, value))?;
        }
        self.edit("heads_by_layer", "same for all layers", |f| {
            let heads: Vec<u8> = [1u32, 2].iter().flat_map(|n| n.to_le_bytes()).collect();
            f.set("llama.attention.head_count", array(4, 2, &heads));
        })?;
        self.edit("mask_beyond", "mask_token_id = 8", |f| {
            f.set("lacuna.block_size", u32_value(4));
            f.set("lacuna.mask_token_id", u32_value(8));
        })?;
        self.edit("mask_missing", "mask_token_id = nothing", |f| {
            f.set("lacuna.block_size", u32_value(4));
        })?;
        self.edit("shape_transposed", "the configuration implies", |f| {
            let k = f.tensors.iter_mut().find(|t| t.name == "blk.0.attn_k.weight");
            k.expect("it is there").dims.reverse();
        })?;
        self.edit("tensor_missing", "lacks 1 tensor: model.norm.weight", |f| {
            let norm = f.tensors.iter_mut().find(|t| t.name == "output_norm.weight");
            norm.expect("it is there").name = "rope_freqs.weights".into();
        })?;
        self.edit("tensor_extra", "blk.00.attn_q.weight", |f| {
            let start = f.data.len().next_multiple_of(32);
            f.data.resize(start + 4, 0);
            let offset = start as u64;
            let name = "blk.00.attn_q.weight".into();
            f.tensors.push(GgufTensor { name, dims: vec![1], kind: 0, offset });
        })?;
        self.edit("rope_freqs_nonsense", "no known rope scaling", |f| {
            let start = f.data.len().next_multiple_of(32);
            f.data.resize(start, 0);
            f.data.extend_from_slice(&f32::NAN.to_le_bytes());
            let name = "rope_freqs.weight".into();
            f.tensors.push(GgufTensor { name, dims: vec![1], kind: 0, offset: start as u64 });
        })
    }

    fn header(&mut self, name: &str, words: &str, file: &[u8]) -> std::io::Result<()> {
        let path = format!("safetensors/{name}");
        self.expect(&path, words);
        self.put(&format!("{path}/config.json"), &text(&config()))?;
        self.put(&format!("{path}/model.safetensors"), file)
    }

    fn safetensors(&mut self) -> std::io::Result<()> {
        let valid = safetensors(&tensors());
        self.header("empty", "bytes", b"")?;
        self.header("seven_bytes", "at least 8", &[0; 7])?;
        self.header("length_0", "no JSON object", &[&[0; 8], &valid[8..]].concat())?;
        self.header("length_1", "header: EOF", &[&1u64.to_le_bytes()[..], &valid[8..]].concat())?;
        for (size, n) in EXTREMES {
            let file = [&n.to_le_bytes()[..], &valid[8..]].concat();
            self.header(&format!("length_{size}"), &format!("claims {n} bytes"), &file)?;
        }
        self.header("data_cut", "not inside the data", &valid[..valid.len() - 1])?;
        self.header("data_trailing", "describes", &[&valid[..], &[0]].concat())?;

        let raw_headers = [
            ("leading_space", " {}", "does not start with {"),
            ("an_array", "[]", "does not start with {"),
            ("not_json", "{nonsense}", "key must be a string"),
            ("cut", "{\"a\":", "EOF"),
            ("trailing", "{}{}", "trailing characters"),
            ("nothing", "{}", "lacks"),
            ("deep_metadata", DEEP, "expected a string"),
            ("metadata_number", r#"{"__metadata__":{"format":1}}"#, "expected a string"),
            ("metadata_twice", r#"{"__metadata__":{"a":"","a":""}}"#, "key twice"),
        ];
        for (name, header, words) in raw_headers {
            let data: &[u8] = &[];
            self.header(name, words, &container(header, data))?;
        }
        let infos = [
            ("dtype_unknown", r#"{"dtype":"F31","shape":[4],"data_offsets":[0,16]}"#, "F31"),
            ("dtype_integer", r#"{"dtype":"I32","shape":[4],"data_offsets":[0,16]}"#, "I32"),
            (
                "dtype_number",
                r#"{"dtype":1,"shape":[4],"data_offsets":[0,16]}"#,
                "expected a string",
            ),
            ("rank_0", r#"{"dtype":"F32","shape":[],"data_offsets":[0,4]}"#, "0 dimensions"),
            (
                "rank_5",
                r#"{"dtype":"F32","shape":[1,1,1,1,4],"data_offsets":[0,16]}"#,
                "5 dimensions",
            ),
            (
                "rank_9",
                r#"{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}"#,
                "more than 8",
            ),
            ("dim_0", r#"{"dtype":"F32","shape":[0],"data_offsets":[0,0]}"#, "empty"),
            (
                "dim_negative",
                r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#,
                "invalid value",
            ),
            (
                "dim_fraction",
                r#"{"dtype":"F32","shape":[4.5],"data_offsets":[0,16]}"#,
                "invalid type",
            ),
            (
                "dim_2p64",
                r#"{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,16]}"#,
                "invalid",
            ),
            (
                "product_wraps_to_0",
                r#"{"dtype":"F32","shape":[8589934592,8589934592],"data_offsets":[0,0]}"#,
                "too large",
            ),
            (
                "bytes_wrap_to_0",
                r#"{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}"#,
                "does not take",
            ),
            (
                "offsets_reversed",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#,
                "not inside",
            ),
            (
                "offsets_past_end",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[16,32]}"#,
                "not inside",
            ),
            (
                "offsets_near_2p64",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,18446744073709551615]}"#,
                "not inside",
            ),
            (
                "offsets_negative",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}"#,
                "invalid value",
            ),
            (
                "offsets_three",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16,16]}"#,
                "trailing characters",
            ),
            (
                "offsets_too_short",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[0,12]}"#,
                "does not take",
            ),
            (
                "field_unknown",
                r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16],"x":0}"#,
                "unknown field",
            ),
            ("field_missing", r#"{"dtype":"F32","data_offsets":[0,16]}"#, "missing field"),
            (
                "field_twice",
                r#"{"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]}"#,
                "duplicate field",
            ),
        ];
        for (name, info, words) in infos {
            let header = format!(r#"{{"model.norm.weight":{info}}}"#);
            self.header(name, words, &container(&header, &[0; 16]))?;
        }
        let four =
            |a: u64, b: u64| format!(r#"{{"dtype":"F32","shape":[4],"data_offsets":[{a},{b}]}}"#);
        let pairs = [
            ("name_twice", "x", "x", four(0, 16), four(16, 32), "appears twice"),
            ("overlap", "x", "y", four(0, 16), four(8, 24), "overlaps"),
            ("same_bytes", "x", "y", four(0, 16), four(0, 16), "overlaps"),
            ("gap", "x", "y", four(0, 16), four(24, 40), "leaves a gap"),
            ("name_with_escapes", "\\u001b[2J", "y", four(8, 24), four(24, 40), "\\u{1b}"),
        ];
        for (name, first, second, a, b, words) in pairs {
            let header = format!(r#"{{"{first}":{a},"{second}":{b}}}"#);
            self.header(name, words, &container(&header, &[0; 40]))?;
        }
        let mut fewer = tensors();
        fewer.retain(|(name, _)| name != "model.norm.weight");
        self.header("tensor_missing", "lacks 1 tensor: model.norm.weight", &safetensors(&fewer))?;
        let mut more = tensors();
        more.push(("model.layers.0.self_attn.q_proj.bias".into(), vec![4]));
        self.header("tensor_extra", "q_proj.bias", &safetensors(&more))?;
        let mut other = tensors();
        let norm = other.iter_mut().find(|(name, _)| name == "model.norm.weight");
        norm.expect("it is there").1 = vec![5];
        self.header("shape_other", "the configuration implies [4]", &safetensors(&other))
    }

    fn config(&mut self, name: &str, words: &str, config: &[u8]) -> std::io::Result<()> {
        let path = format!("config/{name}");
        self.expect(&path, words);
        self.put(&format!("{path}/config.json"), config)
    }

    fn configs(&mut self) -> std::io::Result<()> {
        let fields = [
            ("heads_0", "num_attention_heads", json!(0), "num_attention_heads = 0"),
            ("heads_3", "num_attention_heads", json!(3), "hidden_size = 4"),
            ("kv_heads_0", "num_key_value_heads", json!(0), "num_key_value_heads = 0"),
            ("kv_heads_3", "num_key_value_heads", json!(3), "num_key_value_heads = 3"),
            ("layers_1e9", "num_hidden_layers", json!(1_000_000_000), "= 1000000000"),
            ("layers_0", "num_hidden_layers", json!(0), "num_hidden_layers = 0"),
            ("hidden_2p63", "hidden_size", json!(1u64 << 63), "hidden_size"),
            ("hidden_negative", "hidden_size", json!(-4), "hidden_size = -4"),
            ("vocab_2p64m1", "vocab_size", json!(u64::MAX), "vocab_size"),
            ("intermediate_text", "intermediate_size", json!("4"), "intermediate_size"),
            ("positions_2p32", "max_position_embeddings", json!(1u64 << 32), "= 4294967296"),
            ("head_dim_odd", "head_dim", json!(3), "head_dim = 3"),
            ("theta_nan_text", "rope_theta", json!("NaN"), "rope_theta"),
            ("theta_0", "rope_theta", json!(0), "rope_theta = 0"),
            ("eps_0", "rms_norm_eps", json!(0), "rms_norm_eps = 0"),
            ("eos_beyond", "eos_token_id", json!(8), "opens without eos_token_id = 8"),
            ("eos_list_beyond", "eos_token_id", json!([2, 9]), "opens without eos_token_id = 9"),
            ("eos_negative", "eos_token_id", json!(-1), "opens"),
            (
                "pad_2p32",
                "pad_token_id",
                json!(1u64 << 32),
                "opens without pad_token_id = 4294967296",
            ),
            ("architecture_unknown", "architectures", json!(["Mamba"]), "Mamba"),
            ("architecture_number", "architectures", json!(1), "architectures = 1"),
            ("rope_yarn", "rope_scaling", json!({"rope_type": "yarn"}), "yarn"),
            ("rope_factor_0", "rope_scaling", json!({"type": "linear", "factor": 0}), "factor = 0"),
            ("act_gelu", "hidden_act", json!("gelu"), "hidden_act"),
            ("window", "use_sliding_window", json!(true), "sliding_window = 16"),
            ("quantized", "quantization_config", json!({"bits": 4}), "quantization_config"),
            ("quantized_text", "quantization_config", json!("int4"), "expected an object or null"),
            ("experts", "num_experts", json!(8), "a mixture of experts is another model"),
            ("experts_local", "num_local_experts", json!(1), "a mixture of experts"),
            ("experts_routed", "n_routed_experts", json!(64), "a mixture of experts"),
            ("experts_negative", "num_experts", json!(-1), "a mixture of experts"),
        ];
        for (name, field, value, words) in fields {
            let mut config = config();
            config["sliding_window"] = json!(16);
            config[field] = value;
            self.config(name, words, &text(&config))?;
        }
        let block = json!(["StableDiffcoderForCausalLM"]);
        for (name, field, value, words) in [
            ("block_size_0", "block_size", json!(0), "block_size = 0"),
            ("block_size_huge", "block_size", json!(1 << 20), "block_size = 1048576"),
            ("mask_beyond", "mask_token_id", json!(8), "mask_token_id = 8"),
        ] {
            let mut config = config();
            config["architectures"] = block.clone();
            config[field] = value;
            self.config(name, words, &text(&config))?;
        }
        self.config("empty", "EOF", b"")?;
        self.config("an_array", "expected a JSON object", b"[]")?;
        self.config("deep", "recursion limit", DEEP.as_bytes())?;
        self.config("key_twice", "appears twice", br#"{"hidden_size":4,"hidden_size":8}"#)?;
        self.config("theta_nan", "expected value", br#"{"rope_theta":NaN}"#)?;
        self.config("theta_1e999", "number out of range", br#"{"rope_theta":1e999}"#)?;
        self.config("not_utf8", "config.json", b"{\"a\":\"\xff\"}")?;
        self.config("generation_eos_beyond", "opens without eos_token_id = 8", &text(&config()))?;
        let generation = json!({ "eos_token_id": 8 });
        self.put("config/generation_eos_beyond/generation_config.json", &text(&generation))
    }

    fn index(&mut self, name: &str, words: &str, index: &[u8]) -> std::io::Result<()> {
        let path = format!("index/{name}");
        self.expect(&path, words);
        let (first, second) = halves();
        self.put(&format!("{path}/config.json"), &text(&config()))?;
        self.put(&format!("{path}/a.safetensors"), &safetensors(&first))?;
        self.put(&format!("{path}/b.safetensors"), &safetensors(&second))?;
        self.put(&format!("{path}/model.safetensors.index.json"), index)
    }

    fn indexes(&mut self) -> std::io::Result<()> {
        let shards = [
            ("parent", "../../valid/sharded/a.safetensors"),
            ("absolute", "/etc/hostname.safetensors"),
            ("folder", "a/b.safetensors"),
            ("backslash", "..\\a.safetensors"),
            ("drive", "C:a.safetensors"),
            ("nothing", ""),
            ("dot", "."),
            ("nul", "a\0.safetensors"),
            ("other_ending", "config.json"),
        ];
        for (name, shard) in shards {
            let mut index = index();
            index["weight_map"]["model.norm.weight"] = json!(shard);
            self.index(&format!("shard_{name}"), "no plain file name", &text(&index))?;
        }
        let mut absent = index();
        absent["weight_map"]["model.norm.weight"] = json!("c.safetensors");
        self.index("shard_absent", "c.safetensors", &text(&absent))?;
        let mut swapped = index();
        swapped["weight_map"]["model.norm.weight"] = json!("a.safetensors");
        self.index("tensor_elsewhere", "not what the index says", &text(&swapped))?;
        let mut invented = index();
        invented["weight_map"]["invented"] = json!("a.safetensors");
        self.index("tensor_absent", "tensor invented: is not in", &text(&invented))?;
        let mut unnamed = index();
        let map = unnamed["weight_map"].as_object_mut().expect("it is one");
        map.remove("model.norm.weight");
        self.index("tensor_unnamed", "not what the index says", &text(&unnamed))?;
        let mut number = index();
        number["weight_map"]["model.norm.weight"] = json!(1);
        self.index("shard_number", "no string", &text(&number))?;
        self.index("no_map", "weight_map", b"{}")?;
        self.index("map_empty", "names no shard", br#"{"weight_map":{}}"#)?;
        self.index("map_array", "weight_map", br#"{"weight_map":[]}"#)?;
        self.index("deep", "recursion limit", DEEP.as_bytes())?;
        let twice = br#"{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}"#;
        self.index("tensor_twice", "appears twice", twice)
    }
}

/// Objects within objects, deeper than any parser should follow.
const DEEP: &str = concat!(
    r#"{"__metadata__":{"a":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["#,
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
);

/// The configuration of all cases: one layer, hidden size 4, two heads of 2, one key head, vocabulary 8.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 4,
        "intermediate_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 16,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true,
        "bos_token_id": 0,
        "eos_token_id": 1,
    })
}

/// The names and shapes of tensors.
type Shapes = Vec<(String, Vec<usize>)>;

fn tensors() -> Shapes {
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    vec![
        ("model.embed_tokens.weight".into(), vec![8, 4]),
        (layer("input_layernorm"), vec![4]),
        (layer("self_attn.q_proj"), vec![4, 4]),
        (layer("self_attn.k_proj"), vec![2, 4]),
        (layer("self_attn.v_proj"), vec![2, 4]),
        (layer("self_attn.o_proj"), vec![4, 4]),
        (layer("post_attention_layernorm"), vec![4]),
        (layer("mlp.gate_proj"), vec![4, 4]),
        (layer("mlp.up_proj"), vec![4, 4]),
        (layer("mlp.down_proj"), vec![4, 4]),
        ("model.norm.weight".into(), vec![4]),
    ]
}

/// The tensors of the shards `a` and `b`.
fn halves() -> (Shapes, Shapes) {
    let mut first = tensors();
    let second = first.split_off(5);
    (first, second)
}

fn index() -> Value {
    let (first, second) = halves();
    let mut map = serde_json::Map::new();
    map.extend(first.into_iter().map(|(name, _)| (name, json!("a.safetensors"))));
    map.extend(second.into_iter().map(|(name, _)| (name, json!("b.safetensors"))));
    json!({ "metadata": {}, "weight_map": map })
}

/// A value as JSON text with its keys sorted, whatever features serde_json was built with.
fn text(value: &Value) -> Vec<u8> {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut entries: Vec<_> = map.iter().collect();
                entries.sort_by_key(|(key, _)| *key);
                Value::Object(entries.into_iter().map(|(k, v)| (k.clone(), sorted(v))).collect())
            }
            Value::Array(values) => Value::Array(values.iter().map(sorted).collect()),
            other => other.clone(),
        }
    }
    let mut text = serde_json::to_vec_pretty(&sorted(value)).expect("a value serialises");
    text.push(b'\n');
    text
}

/// A safetensors file of zeros under a valid header.
fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut start = 0;
    let mut infos = Vec::new();
    for (name, shape) in tensors {
        let end = start + 4 * shape.iter().product::<usize>();
        infos.push(format!(
            r#"{}:{{"dtype":"F32","shape":{},"data_offsets":[{start},{end}]}}"#,
            json!(name),
            json!(shape)
        ));
        start = end;
    }
    container(&format!("{{{}}}", infos.join(",")), &vec![0; start])
}

fn container(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The parts of a GGUF file, each of which can be made to lie.
struct GgufFile {
    magic: [u8; 4],
    version: u32,
    tensor_count: Option<u64>,
    metadata_count: Option<u64>,
    /// The length that the first key claims; its true one if `None`.
    key_length: Option<u64>,
    /// The length that the first tensor's name claims; its true one if `None`.
    name_length: Option<u64>,
    /// The rank that the first tensor claims; its true one if `None`.
    rank: Option<u32>,
    metadata: Vec<(String, Vec<u8>)>,
    tensors: Vec<GgufTensor>,
    data: Vec<u8>,
}

struct GgufTensor {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl GgufFile {
    fn valid() -> Self {
        let metadata = [
            ("general.architecture", string("llama")),
            ("llama.context_length", u32_value(16)),
            ("llama.embedding_length", u32_value(4)),
            ("llama.block_count", u32_value(1)),
            ("llama.feed_forward_length", u32_value(4)),
            ("llama.attention.head_count", u32_value(2)),
            ("llama.attention.head_count_kv", u32_value(1)),
            ("llama.attention.layer_norm_rms_epsilon", raw(6, &1e-5f32.to_le_bytes())),
            ("llama.rope.freq_base", raw(6, &10_000f32.to_le_bytes())),
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.pre", string("smollm")),
            ("tokenizer.ggml.tokens", strings(&["<s>", "</s>", "a", "b", "ab", "c", "d", "e"])),
            ("tokenizer.ggml.token_type", array(5, 8, &kinds())),
            ("tokenizer.ggml.merges", strings(&["a b"])),
            ("tokenizer.ggml.bos_token_id", u32_value(0)),
            ("tokenizer.ggml.eos_token_id", u32_value(1)),
        ];
        let names = [
            ("token_embd.weight", vec![4, 8]),
            ("blk.0.attn_norm.weight", vec![4]),
            ("blk.0.attn_q.weight", vec![4, 4]),
            ("blk.0.attn_k.weight", vec![4, 2]),
            ("blk.0.attn_v.weight", vec![4, 2]),
            ("blk.0.attn_output.weight", vec![4, 4]),
            ("blk.0.ffn_norm.weight", vec![4]),
            ("blk.0.ffn_gate.weight", vec![4, 4]),
            ("blk.0.ffn_up.weight", vec![4, 4]),
            ("blk.0.ffn_down.weight", vec![4, 4]),
            ("output_norm.weight", vec![4]),
        ];
        let mut data: Vec<u8> = Vec::new();
        let mut tensors = Vec::new();
        for (name, dims) in names {
            data.resize(data.len().next_multiple_of(32), 0);
            let offset = data.len() as u64;
            data.resize(data.len() + 4 * dims.iter().product::<u64>() as usize, 0);
            tensors.push(GgufTensor { name: name.into(), dims, kind: 0, offset });
        }
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            metadata_count: None,
            key_length: None,
            name_length: None,
            rank: None,
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).to_vec(),
            tensors,
            data,
        }
    }

    fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        out.extend_from_slice(&tensor_count.to_le_bytes());
        let metadata_count = self.metadata_count.unwrap_or(self.metadata.len() as u64);
        out.extend_from_slice(&metadata_count.to_le_bytes());
        for (place, (key, value)) in self.metadata.iter().enumerate() {
            let length = self.key_length.filter(|_| place == 0).unwrap_or(key.len() as u64);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(value);
        }
        for (place, tensor) in self.tensors.iter().enumerate() {
            let length = self.name_length.filter(|_| place == 0);
            let length = length.unwrap_or(tensor.name.len() as u64);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(tensor.name.as_bytes());
            let rank = self.rank.filter(|_| place == 0).unwrap_or(tensor.dims.len() as u32);
            out.extend_from_slice(&rank.to_le_bytes());
            tensor.dims.iter().for_each(|dim| out.extend_from_slice(&dim.to_le_bytes()));
            out.extend_from_slice(&tensor.kind.to_le_bytes());
            out.extend_from_slice(&tensor.offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend_from_slice(&self.data);
        out
    }
}

/// The types of eight tokens: two control tokens, then normal ones.
fn kinds() -> Vec<u8> {
    [3i32, 3, 1, 1, 1, 1, 1, 1].iter().flat_map(|kind| kind.to_le_bytes()).collect()
}

/// A metadata value: its type's number and its bytes.
fn raw(kind: u32, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], bytes].concat()
}

fn u32_value(n: u32) -> Vec<u8> {
    raw(4, &n.to_le_bytes())
}

fn string(text: &str) -> Vec<u8> {
    raw(8, &[&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat())
}

fn array(kind: u32, len: u64, bytes: &[u8]) -> Vec<u8> {
    raw(9, &[&kind.to_le_bytes()[..], &len.to_le_bytes(), bytes].concat())
}

fn strings(texts: &[&str]) -> Vec<u8> {
    let bytes: Vec<u8> = texts.iter().flat_map(|text| string(text)[4..].to_vec()).collect();
    array(8, texts.len() as u64, &bytes)
}
