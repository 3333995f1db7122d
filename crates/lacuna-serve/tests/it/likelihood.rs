//! The likelihood that `echo` tells is the one that the project's own scoring has.

use crate::support::{Server, tiny};
use lacuna_engine::Attention;
use lacuna_likelihood::{Blocks, Method, Scoring, Text, likelihood};
use serde_json::json;

#[test]
fn echoed_likelihoods_add_up_to_the_left_to_right_one() {
    let model = tiny();
    let tokens: Vec<u32> = (0..37u32).map(|i| 40 + (i * 53) % 400).collect();
    let text = Text { tokens: &tokens, eligible: &[true; 37], documents: &[37] };
    let block_size = model.block_size(None);
    let mask_id = model.mask_id().unwrap();
    let scoring = Scoring {
        method: Method::LeftToRight,
        blocks: Some(Blocks { block_size, mask_id }),
        attention: Attention::BlockCausal,
        document_mask: false,
        batch_size: 1,
    };
    let nats = likelihood(&model.transformer, &[text], &scoring, &mut |_| {}).unwrap().nats;

    let server = Server::start();
    let body =
        json!({"prompt": [tokens], "echo": true, "logprobs": 2, "max_tokens": 0, "temperature": 0});
    let answer = server.post("/v1/completions", &body);
    assert_eq!(answer.header("x-lacuna-likelihood"), Some("left-to-right"));
    let logprobs = &answer.json()["choices"][0]["logprobs"];
    let own = logprobs["token_logprobs"].as_array().unwrap();
    assert!(own[0].is_null() && own.len() == 37);
    let sum: f64 = own[1..].iter().map(|value| value.as_f64().unwrap()).sum();
    assert!((sum + nats).abs() < 1e-3 * nats, "{sum}, {nats}");
    for (own, best) in own[1..].iter().zip(&logprobs["top_logprobs"].as_array().unwrap()[1..]) {
        let most = best
            .as_object()
            .unwrap()
            .values()
            .filter_map(|value| value.as_f64())
            .fold(f64::MIN, f64::max);
        assert!(own.as_f64().unwrap() <= most);
    }
}

#[test]
fn the_token_after_a_text_is_told_as_harnesses_ask_for_it() {
    let server = Server::start();
    let body = json!({"model": "m", "prompt": ["def f(x):\n", "a = 1"], "max_tokens": 1, "logprobs": 1, "echo": true,
        "seed": 1234, "temperature": 0});
    let answer = server.post("/v1/completions", &body).json();
    for index in 0..2 {
        let choice = &answer["choices"][index];
        let logprobs = &choice["logprobs"];
        let tokens = logprobs["tokens"].as_array().unwrap();
        assert_eq!(choice["index"], index);
        assert_eq!(tokens.len(), logprobs["token_logprobs"].as_array().unwrap().len());
        assert!(choice["text"].as_str().unwrap().starts_with(["def f(x):\n", "a = 1"][index]));
    }
    assert_eq!(answer["usage"]["completion_tokens"], 2);
}
