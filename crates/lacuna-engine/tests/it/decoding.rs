//! Follows the released decoder case by case, and compares what the default decoder makes of the
//! same cases (fixtures/golden, origin in fixtures/README.md).

use crate::support::ids;
use lacuna_engine::{Model, OpenOptions, Session};
use lacuna_samplers::reference::{self, Settings};
use lacuna_samplers::{Error, FillRule, Request, generate};
use lacuna_test::golden;
use serde_json::Value;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;

const MASK: u32 = 5;

fn cases() -> (Vec<Value>, HashMap<String, Model>) {
    let text = std::fs::read_to_string(golden().join("generate_cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let open = |name: &str| {
        Model::open(&golden().join("models").join(name), &OpenOptions::default()).unwrap()
    };
    let models = ["tiny_untied", "tiny_tied"].map(|name| (name.to_owned(), open(name)));
    (cases, HashMap::from(models))
}

fn settings(case: &Value) -> (Vec<u32>, Settings) {
    let number = |key: &str| case[key].as_u64().unwrap() as usize;
    let mut settings = Settings::new(number("gen_length"), number("block_length"), MASK);
    settings.steps = number("steps");
    settings.threshold = case["threshold"].as_f64();
    settings.eos_id = case["eos_id"].as_u64().map(|id| id as u32);
    (ids(&case["prompt"]), settings)
}

#[test]
fn reference_mode_equals_every_recorded_case() {
    let (cases, models) = cases();
    let (mut equal, mut refused) = (0, 0);
    for case in &cases {
        let id = &case["id"];
        let (prompt, settings) = settings(case);
        let model = &models[case["model"].as_str().unwrap()];
        let mut session = Session::new(Arc::clone(&model.transformer)).unfused();
        let output =
            reference::generate(&mut session, &prompt, &settings, |_| ControlFlow::Continue(()));
        if case["expect"].get("refused_with").is_some() {
            let error = output.expect_err(&format!("case {id} was refused by the released code"));
            let known = matches!(error, Error::MasksLeft { .. } | Error::Setting { .. });
            assert!(known, "case {id}: {error}");
            refused += 1;
            continue;
        }
        if case["robust"] == false {
            continue;
        }
        let output = output.unwrap_or_else(|e| panic!("case {id}: {e}"));
        assert_eq!(output.ids, ids(&case["expect"]["ids"]), "case {id}");
        assert_eq!(output.nfe as u64, case["expect"]["nfe"].as_u64().unwrap(), "nfe of case {id}");
        equal += 1;
    }
    // The other 63 hinge on a rounding: a near-tie that single precision may decide either way.
    assert_eq!((equal, refused, cases.len()), (184, 188, 435));
}

#[test]
fn the_default_mode_writes_the_same_tokens_in_fewer_passes() {
    let (cases, models) = cases();
    let (mut same, mut reference_passes, mut passes) = (0, 0, 0);
    for case in &cases {
        let (prompt, settings) = settings(case);
        let model = &models[case["model"].as_str().unwrap()];
        // If the released decoder reads a mask out of the prompt or writes one, the default does
        // not follow.
        let ends = case["expect"].get("ids").filter(|_| case["robust"] != false).map(ids);
        let Some(expected) = ends.filter(|ids| !ids.contains(&MASK)) else { continue };
        let block_size = NonZeroUsize::new(settings.block_length).unwrap();
        let new_tokens = expected.len() - prompt.len();
        let mut request = Request::new(prompt.clone(), settings.gen_length, block_size, MASK);
        let blocks = settings.gen_length / settings.block_length;
        if settings.steps % blocks != 0 {
            continue;
        }
        match settings.threshold {
            Some(tau) => request.fill = FillRule::Threshold { tau },
            None => request.steps = NonZeroUsize::new(settings.steps),
        }
        request.eos_ids = settings.eos_id.into_iter().collect();
        let mut session = Session::new(Arc::clone(&model.transformer));
        let generation = generate(&mut session, request, |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(generation.tokens, expected[prompt.len()..], "case {}", case["id"]);
        assert_eq!(generation.tokens.len(), new_tokens);
        let nfe = case["expect"]["nfe"].as_u64().unwrap() as usize;
        // One pass per refinement; the released code adds one per finished block.
        assert!(generation.forwards <= nfe, "case {}: {} > {nfe}", case["id"], generation.forwards);
        passes += generation.forwards;
        reference_passes += nfe;
        same += 1;
    }
    assert_eq!(same, 179, "cases compared");
    assert!(passes < reference_passes, "{passes} passes, the released decoder {reference_passes}");
}

#[test]
fn a_cached_fused_decode_equals_one_without_any_cache() {
    let (_, models) = cases();
    let model = &models["tiny_untied"];
    let four = NonZeroUsize::new(4).unwrap();
    for len in [3usize, 8, 13] {
        let prompt: Vec<u32> = (0..len as u32).map(|i| 17 + i * 31 % 400).collect();
        let request = Request::new(prompt.clone(), 24, four, MASK);
        let mut session = Session::new(Arc::clone(&model.transformer));
        let cached = generate(&mut session, request, |_| ControlFlow::Continue(())).unwrap();
        // Each refinement from the whole canvas: the most confident masked position of the first open block.
        let mut canvas = prompt.clone();
        canvas.resize(len + 24, MASK);
        let mut open: Vec<bool> = canvas.iter().enumerate().map(|(i, _)| i >= len).collect();
        while let Some(first) = open.iter().position(|o| *o) {
            let end = ((first / 4 + 1) * 4).min(canvas.len());
            let mask = lacuna_kernels::AttentionMask::BlockCausal { block_size: four };
            let transformer = &model.transformer;
            let batch = lacuna_model::Batch::of(&canvas[..end], mask).unwrap();
            let hidden = transformer.forward(&batch).unwrap();
            let logits = transformer.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
            let best = (first..end).filter(|i| open[*i]).map(|i| {
                let allowed = logits[i].iter().enumerate().filter(|(t, _)| *t != MASK as usize);
                let (token, top) =
                    allowed.fold((0, f32::MIN), |a, (t, l)| if *l > a.1 { (t, *l) } else { a });
                let sum: f64 = logits[i].iter().map(|l| f64::from(l - top).exp()).sum();
                (i, token as u32, 1.0 / sum)
            });
            let (at, token, _) =
                best.max_by(|a, b| a.2.total_cmp(&b.2).then(b.0.cmp(&a.0))).unwrap();
            canvas[at] = token;
            open[at] = false;
        }
        assert_eq!(cached.tokens, canvas[len..], "prompt of {len}");
    }
}
