//! Resumes a run with each key changed, one after the other.

use super::*;

/// A change of each key, at a stage that has begun.
const CHANGES: &[(&str, &[&str])] = &[
    ("name", &["name=other"]),
    ("seed", &["seed=2"]),
    ("keep_checkpoints", &["keep_checkpoints=9"]),
    ("tensorboard", &["tensorboard=true"]),
    ("model.hidden_size", &["model.hidden_size=32"]),
    ("model.intermediate_size", &["model.intermediate_size=32"]),
    ("model.layers", &["model.layers=2"]),
    ("model.heads", &["model.heads=1", "model.kv_heads=1"]),
    ("model.kv_heads", &["model.kv_heads=1"]),
    ("model.rope_theta", &["model.rope_theta=500.0"]),
    ("model.max_positions", &["model.max_positions=64"]),
    ("model.tie_word_embeddings", &["model.tie_word_embeddings=false"]),
    ("model.mask_token", &["model.mask_token=<[fim-prefix]>"]),
    ("model.mask_embedding", &["model.mask_embedding=mean"]),
    ("model.frozen", &["model.frozen=[\"norms\"]"]),
    ("model.frozen_layers", &["model.frozen_layers=1"]),
    ("model.precision", &["model.precision=bf16"]),
    ("model.allow_mode_mismatch", &["model.allow_mode_mismatch=true"]),
    // These keys do not change the text that is read here.
    ("data.max_document_bytes", &["data.max_document_bytes=5000"]),
    ("data.text_fields", &["data.text_fields=[\"body\"]"]),
    ("data.take_binary", &["data.take_binary=true"]),
    ("data.take_hidden", &["data.take_hidden=true"]),
    ("data.take_ignored", &["data.take_ignored=true"]),
    ("data.languages", &["data.languages=[\"python\"]"]),
    ("data.take_duplicates", &["data.take_duplicates=true"]),
    ("data.skip_generated", &["data.skip_generated=true"]),
    ("data.skip_minified", &["data.skip_minified=true"]),
    ("sft.template", &["sft.template=seed-coder"]),
    ("data.verify_shards", &["data.verify_shards=false"]),
    ("data.window", &["data.window=16"]),
    ("data.document_mask", &["data.document_mask=true"]),
    ("optimizer.beta1", &["optimizer.beta1=0.8"]),
    ("optimizer.beta2", &["optimizer.beta2=0.8"]),
    ("optimizer.epsilon", &["optimizer.epsilon=1e-6"]),
    ("optimizer.weight_decay", &["optimizer.weight_decay=0.0"]),
    ("optimizer.decay", &["optimizer.decay=[\"norms\"]"]),
    ("optimizer.ema_decay", &["optimizer.ema_decay=0.9"]),
    ("optimizer.clip", &["optimizer.clip=2.0"]),
    ("optimizer.moments", &["optimizer.moments=8-bit"]),
    ("optimizer.spike_z_score", &["optimizer.spike_z_score=6.0"]),
    ("stage.name", &["stage.1.name=renamed"]),
    ("stage.objective", &["stage.1.objective=full-diffusion"]),
    ("stage.steps", &["stage.1.steps=8"]),
    ("stage.batch_size", &["stage.1.batch_size=4"]),
    ("stage.batch_tokens", &["stage.1.batch_tokens=16"]),
    ("stage.micro_batch_size", &["stage.1.micro_batch_size=1"]),
    ("stage.learning_rate", &["stage.1.learning_rate=2e-3"]),
    ("stage.learning_rate_shape", &["stage.1.learning_rate_shape=cosine"]),
    ("stage.learning_rate_warmup", &["stage.1.learning_rate_warmup=1"]),
    ("stage.learning_rate_decay", &["stage.1.learning_rate_decay=1"]),
    ("stage.learning_rate_final", &["stage.1.learning_rate_final=0.5"]),
    ("stage.reset_optimizer", &["stage.1.reset_optimizer=true"]),
    ("stage.dropout", &["stage.1.dropout=0.1"]),
    ("stage.document_mask", &["stage.1.document_mask=true"]),
    ("stage.data", &["stage.1.data=sft"]),
    ("stage.block_size", &["stage.1.block_size=2"]),
    ("stage.logit_shift", &["stage.1.logit_shift=true"]),
    ("stage.corruption.times", &["stage.1.corruption.times=independent"]),
    ("stage.corruption.schedule", &["stage.1.corruption.schedule=log"]),
    ("stage.corruption.transform", &["stage.1.corruption.transform=band-0.2-0.9"]),
    ("stage.corruption.mask", &["stage.1.corruption.mask=bernoulli"]),
    ("stage.corruption.weight", &["stage.1.corruption.weight=none"]),
    ("stage.corruption.warmup_steps", &["stage.1.corruption.warmup_steps=2"]),
    ("stage.corruption.warmup_start", &["stage.1.corruption.warmup_start=0.5"]),
    (
        "stage.corruption.transform_during_warmup",
        &["stage.1.corruption.transform_during_warmup=true"],
    ),
    ("stage.recompute_activations", &["stage.1.recompute_activations=true"]),
    ("stage.autoregressive_loss_every", &["stage.1.autoregressive_loss_every=1"]),
    ("stage.checkpoint_every", &["stage.1.checkpoint_every=1"]),
    ("stage.checkpoint_minutes", &["stage.1.checkpoint_minutes=1.0"]),
    ("evaluation.windows", &["evaluation.windows=2"]),
    ("evaluation.at_start", &["evaluation.at_start=true"]),
    ("evaluation.prompts", &["evaluation.prompts=[\"def \"]"]),
    ("evaluation.max_new_tokens", &["evaluation.max_new_tokens=3"]),
    ("evaluation.evaluate_every", &["evaluation.evaluate_every=2"]),
    ("evaluation.sample_every", &["evaluation.sample_every=2"]),
];

/// The keys that are compared by the contents of their paths, each with a change of the contents.
const CONTENTS: &[(&str, &[&str])] = &[
    ("data.tokenizer", &["data.tokenizer=HERE/other.json"]),
    ("data.corpus", &["data.corpus=[\"HERE/src/f1.py\", \"HERE/src/f2.py\"]"]),
    ("data.extensions", &["data.extensions=[\"rs\", \"md\"]"]),
    ("data.held_out", &["data.held_out=0.5"]),
    ("data.document_end", &["data.document_end=<[PAD▁TOKEN]>"]),
    ("data.fim.rate", &["data.fim={rate=1.0}"]),
    ("data.fim.order", &["data.fim={rate=1.0, order=\"psm\"}"]),
    ("data.fim.context", &["data.fim={rate=1.0, context=4}"]),
    ("sft.packing", &["sft.packing=run-on"]),
    ("sft.closing_eos", &["sft.closing_eos=[7, 7]"]),
    ("sft.held_out", &["sft.held_out=0.99"]),
    ("sft.samples", &["sft.samples=[\"HERE/chat.jsonl\", \"HERE/chat.jsonl\"]"]),
];

#[test]
fn a_run_resumed_with_any_key_changed_does_what_the_table_says() {
    let place = Place::new();
    place.run(&[], (false, false), 5).unwrap();
    place.keep();
    let before = place.recorded();
    let tried: BTreeSet<&str> = CHANGES.iter().chain(CONTENTS).map(|(key, _)| *key).collect();
    // These take another kind of recipe, and have tests of their own below or elsewhere.
    let elsewhere = [
        "model.from",
        "data.shards",
        "data.source.corpus",
        "data.source.shards",
        "data.source.weight",
        "lora.rank",
        "lora.alpha",
        "lora.targets",
    ];
    for key in KEYS.iter().filter(|key| !elsewhere.contains(&key.name)) {
        assert!(tried.contains(key.name), "no change of {} is tried", key.name);
    }
    for (name, set) in CHANGES {
        let class = rule(name).unwrap().on_resume;
        let mut set = set.to_vec();
        if *name == "stage.objective" {
            // A recipe without a block size is another recipe in two keys.
            set = vec!["stage.1.objective=autoregressive"];
            let text = String::from_utf8(place.read("r.toml")).unwrap();
            place.write("kept.toml", &text);
            place.write("r.toml", &text.replacen("block_size = 4\n", "", 1));
        }
        let changed = flat(
            &Recipe::load(
                &place.path("r.toml"),
                &set.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(),
            )
            .unwrap(),
        );
        let plain = place.run(&set, (true, false), 0);
        let insisted = if class == Refused || class == Insisted {
            let error = told(plain);
            assert!(error.contains(&name.replace("stage.", "stage.1.")), "{name}: {error}");
            assert_eq!(place.recorded(), before, "{name}: refused, and recorded");
            assert_eq!(error.contains("refused"), class == Refused, "{name}: {error}");
            place.run(&set, (true, true), 0)
        } else {
            plain
        };
        match class {
            Refused => {
                assert!(told(insisted).contains("refused"), "{name}");
                assert_eq!(place.recorded(), before, "{name}");
            }
            Insisted | Obeyed => {
                insisted.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(place.recorded(), changed, "{name}: what holds now is recorded");
                let record = String::from_utf8(place.read("run/run.json")).unwrap();
                assert!(record.contains(&name.replace("stage.", "stage.1.")), "{name}: {record}");
            }
            Ignored | ByContent => {
                insisted.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert_eq!(place.recorded(), before, "{name}");
            }
        }
        if *name == "stage.objective" {
            std::fs::copy(place.path("kept.toml"), place.path("r.toml")).unwrap();
        }
        place.put_back();
    }
}

#[test]
fn what_paths_hold_may_move_and_not_change() {
    let place = Place::new();
    // Another tokenizer of the same size: a token's text differs.
    let recipe = Recipe::load(&place.path("r.toml"), &[]).unwrap();
    let text = std::fs::read_to_string(&recipe.data.tokenizer).unwrap();
    let other = text.replacen("<[fim-middle]>", "<[fim-centre]>", 2);
    assert_ne!(text, other);
    place.write("other.json", &other);
    place.run(&[], (false, false), 5).unwrap();
    place.keep();
    for (name, set) in CONTENTS {
        for accept in [false, true] {
            let error = told(place.run(set, (true, accept), 0));
            assert!(
                ["not what the run began with", "no window", "no documents", "are held out"]
                    .iter()
                    .any(|words| error.contains(words)),
                "{name}: {error}"
            );
        }
        place.put_back();
    }
    // The same text in another place is the same text.
    copy(&place.path("src"), &place.path("moved/src"));
    place.run(&["data.corpus=[\"HERE/moved/src\"]"], (true, false), 0).unwrap();
    place.put_back();
    place.write("src/f3.py", "def f3(x):\n    return 4 - x\n");
    let error = told(place.run(&[], (true, false), 0));
    assert!(error.contains("the corpus") && error.contains("data.corpus"), "{error}");
}
