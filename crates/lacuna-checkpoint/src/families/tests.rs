//! Tests that every parameter has one name in each kind of file, and that families are told apart.

use super::*;
use crate::config::Config;

/// A model with the listed parts.
fn with(keys: &[&str]) -> Config {
    let mut parts = Parts::NONE;
    flags().filter(|flag| keys.contains(&flag.key)).for_each(|flag| *(flag.of)(&mut parts) = true);
    Config { num_layers: 2, parts, ..Config::default() }
}

/// A model with every part.
fn everywhere() -> Config {
    with(&flags().map(|flag| flag.key).collect::<Vec<_>>())
}

#[test]
fn the_order_of_names_is_the_one_that_seeds_were_given_by() {
    let layer = |i: usize| {
        let of = |stem: &str, kind: &str| format!("model.layers.{i}.{stem}.{kind}");
        let attention = ["q", "k", "v", "o"].map(|p| format!("self_attn.{p}_proj"));
        let mlp = ["gate", "up", "down"].map(|p| format!("mlp.{p}_proj"));
        let projections: Vec<String> = attention.into_iter().chain(mlp).collect();
        let norms =
            ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"];
        let weights = projections.iter().map(|p| of(p, "weight")).collect::<Vec<_>>();
        let biases = projections.iter().map(|p| of(p, "bias")).collect();
        [weights, biases, norms.map(|norm| of(norm, "weight")).to_vec()].concat()
    };
    let outer = |name: &str| vec![format!("{name}.weight")];
    let expected =
        [outer("model.embed_tokens"), layer(0), layer(1), outer("model.norm"), outer("lm_head")];
    let keys = ["attention_bias", "attention_output_bias", "mlp_bias", "qk_norm"];
    let shapes = with(&keys).shapes();
    let names: Vec<String> = shapes.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, expected.concat());
    let mut mapped = Vec::new();
    let same = shapes.map(|name, shape| {
        mapped.push(name.to_string());
        shape.clone()
    });
    assert_eq!((mapped, same), (names, shapes));
}

#[test]
fn every_parameter_has_one_name_in_each_kind_of_file() {
    let shapes = everywhere().shapes();
    for (name, _) in shapes.iter() {
        assert_eq!(of_hugging_face_name(&hugging_face_name(name)), Some(name));
        assert_eq!(of_gguf_name(&gguf_name(name)), Some(name));
    }
    let mut both = shapes.iter().map(|(name, _)| gguf_name(name)).collect::<Vec<_>>();
    both.sort();
    both.dedup();
    assert_eq!(both.len(), shapes.iter().count());
    for none in [
        "blk.00.attn_q.weight",
        "blk.1.attn_q",
        "blk.1.attn_q.scale",
        "attn_q.weight",
        "output.bias",
        "blk.0.output.weight",
        "model.norm.weight",
        "blk.1.",
        "",
    ] {
        assert_eq!(of_gguf_name(none), None, "{none}");
    }
}

#[test]
fn families_and_flags_are_told_apart() {
    let families: Vec<Family> = Family::all().collect();
    for family in &families {
        let (architecture, model_type) = family.table().announced;
        assert_eq!(Family::named(architecture), Some(*family));
        assert_eq!(Family::named(model_type), Some(*family));
        assert!(!ARCHITECTURES.iter().any(|one| one.announced == architecture));
    }
    for flag in flags() {
        let mut parts = with(&[flag.key]).parts;
        let set: Vec<&str> =
            flags().filter(|one| *(one.of)(&mut parts)).map(|one| one.key).collect();
        assert_eq!(set, [flag.key]);
    }
    for (name, one) in Architecture::in_gguf() {
        let alike = Architecture::in_gguf().filter(|(_, other)| other.implied == one.implied);
        assert_eq!(alike.count(), 1, "{name}");
    }
}
