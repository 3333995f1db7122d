//! Answers `/v1/completions` and `/v1/fim/completions`: continue a text, fill a hole, tell a text's likelihood.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use lacuna_engine::{GenerateOptions, MAX_NEW_TOKENS};
use lacuna_likelihood::TokenScore;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::Receiver;
use utoipa::ToSchema;

use super::errors::{ApiError, json_response};
use super::fields::{Caller, new_tokens, read, request, texts, with_ignored};
use super::markers::hole;
use super::replies::{self, DONE, Events, Names, event, finish_reason, given_up, usage};
use crate::app::{App, Way, failed};
use crate::work::{Class, Reply, Task, Written, likelihood_name};

/// A prompt, or several: texts, or tokens.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "expected a text, a list of texts, a list of token ids, or a list of such lists"
)]
pub(crate) enum Prompt {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    IdLists(Vec<Vec<u32>>),
}

request! {
    /// Continue a text, or fill the hole between two.
    CompletionRequest {
        /// The text, or texts, to go on with. Marks of a hole in the form of any known family are understood.
        prompt: Prompt,
        /// The text after the hole, where there is one.
        suffix: String,
        /// New tokens at most (128).
        max_tokens: i64,
        /// llama.cpp's name for the same.
        n_predict: i64,
        /// Texts for each prompt; the n-th is drawn with the seed plus n.
        n: i64,
        /// Taken where it is as many as `n`.
        best_of: i64,
        /// True if the answer begins with the prompt.
        echo: bool,
        /// With `echo`: so many of the likeliest tokens in each place, beside the likelihood of the one that is there.
        logprobs: i64,
        /// Taken where it is empty.
        #[schema(value_type = Option<Object>)]
        logit_bias: Value,
    }
}

/// A prompt as it is read, and as it is echoed.
struct Asked {
    ids: Vec<u32>,
    text: Option<String>,
    is_hole: bool,
}

/// Continue a text, or fill the hole between two.
#[utoipa::path(
    post,
    path = "/v1/completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "`text_completion`, or events of them with `stream`"),
        (status = 400, description = "a field that can't be followed, by its name"),
        (status = 429, description = "too many requests wait"),
    )
)]
pub(super) async fn completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<CompletionRequest>(&app, request).await?;
    answer(&app, caller, &asked, false).await
}

/// Fill the hole between `prompt` and `suffix`.
#[utoipa::path(
    post,
    path = "/v1/fim/completions",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "`text_completion`, or events of them with `stream`"),
        (status = 400, description = "a field that can't be followed, by its name"),
    )
)]
pub(super) async fn fim_completions(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (caller, asked) = read::<CompletionRequest>(&app, request).await?;
    answer(&app, caller, &asked, true).await
}

async fn answer(
    app: &App,
    caller: Caller,
    asked: &CompletionRequest,
    always_fills: bool,
) -> Result<Response, ApiError> {
    let shared = asked.shared();
    let ignored = shared.ignored()?;
    let n = texts("n", asked.n)?;
    if asked.best_of.is_some_and(|best| best != n as i64) {
        return Err(ApiError::wrong("best_of", "expected as many as `n`: all of them are told"));
    }
    no_bias(asked.logit_bias.as_ref())?;
    // Long texts keep the thread for a while; others go on meanwhile.
    let prompts = tokio::task::block_in_place(|| prompts(app, asked, always_fills))?;
    let most = new_tokens(asked.max_tokens.or(asked.n_predict), MAX_NEW_TOKENS);
    let options = shared.options(app, most)?;
    let way = shared.way(caller);
    let names = Names::new(app, "cmpl", "text_completion", shared.model);
    let streams = shared.streams;
    if let Some(best) = asked.logprobs {
        let best = match (best, asked.echo, most, n, streams) {
            (0..=20, Some(true), 0..=1, 1, false) => best.max(1) as usize,
            _ => {
                let reason = "only the likelihood of a text that is there is told: 0 to 20, with `echo`, `max_tokens` \
                              of 0 or 1, `n` of 1, and no `stream`";
                return Err(ApiError::wrong("logprobs", reason));
            }
        };
        let response = scored(app, prompts, &options, (way, best), &names).await?;
        return Ok(with_ignored(response, &ignored));
    }
    let mut tasks = Vec::new();
    let echoed = asked.echo == Some(true);
    if most == 0 {
        // Nothing is to be written; what is read is remembered for the next request.
        let choices = prompts.iter().enumerate().map(|(index, prompt)| {
            let text = prompt.text.as_deref().filter(|_| echoed).unwrap_or_default();
            choice(index, text, Some("length"))
        });
        let body = names.with(choices.collect());
        if let Some(first) = prompts.first() {
            let request =
                app.resolved(first.ids.clone(), &GenerateOptions { max_new_tokens: 1, ..options })?;
            let _ = app.submit(vec![Task::Read(request)], Way { class: Class::Background, ..way });
        }
        return Ok(with_ignored(json_response(StatusCode::OK, &body), &ignored));
    }
    for prompt in &prompts {
        let mut options = options.clone();
        if prompt.is_hole {
            let fim = app.fim()?;
            options.eos_ids.get_or_insert_with(|| app.middle_ends(fim));
        }
        let resolved = app.resolved(prompt.ids.clone(), &options)?;
        for number in 0..n {
            tasks.push(Task::Write(with_seed(&resolved, number as u64)));
        }
    }
    let heard = app.submit(tasks, way)?;
    let echo: Vec<String> = prompts
        .iter()
        .map(|prompt| prompt.text.clone().filter(|_| echoed).unwrap_or_default())
        .collect();
    let response = match streams {
        true => streamed(heard, names, echo, n, shared.with_usage),
        false => {
            let written = replies::all(app, heard).await?;
            let choices = written.iter().enumerate().map(|(index, one)| {
                let text = [&echo[index / n], one.completion.text.as_str()].concat();
                choice(index, &text, Some(finish_reason(one)))
            });
            let mut body = names.with(choices.collect());
            body["usage"] = usage(&written.iter().collect::<Vec<_>>(), n);
            body["timings"] = written.first().map(replies::timings).unwrap_or_default();
            json_response(StatusCode::OK, &body)
        }
    };
    Ok(with_ignored(response, &ignored))
}

/// The same request with a seed that is higher by `more`.
pub(super) fn with_seed(
    request: &lacuna_engine::Resolved,
    more: u64,
) -> Box<lacuna_engine::Resolved> {
    use lacuna_engine::Plan;
    let mut request = request.clone();
    match &mut request.plan {
        Plan::Autoregressive(one) | Plan::Blocks(one) => {
            one.sampling.seed = one.sampling.seed.wrapping_add(more);
        }
        Plan::Reference(settings) => settings.seed = settings.seed.wrapping_add(more),
    }
    Box::new(request)
}

pub(super) fn no_bias(bias: Option<&Value>) -> Result<(), ApiError> {
    match bias {
        Some(Value::Object(map)) if map.is_empty() => Ok(()),
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(_) => Err(ApiError::wrong("logit_bias", "is not there yet; leave it out")),
    }
}

fn choice(index: usize, text: &str, finish: Option<&str>) -> Value {
    json!({"index": index, "text": text, "logprobs": null, "finish_reason": finish})
}

/// The prompts of a request, with the holes that they have.
fn prompts(
    app: &App,
    asked: &CompletionRequest,
    always_fills: bool,
) -> Result<Vec<Asked>, ApiError> {
    let missing = || ApiError::wrong("prompt", "is missing: the text to go on with");
    let prompt = asked.prompt.as_ref().ok_or_else(missing)?;
    // One client sends this for none.
    let suffix = asked.suffix.as_deref().filter(|suffix| *suffix != "<|endoftext|>");
    let one = |text: &str| -> Result<Asked, ApiError> {
        let tokenizer = app.tokenizer()?;
        app.fits("prompt", text.len())?;
        app.fits("suffix", suffix.map_or(0, str::len))?;
        let found = match suffix {
            Some(suffix) if always_fills || !suffix.is_empty() => {
                Some((text.to_owned(), suffix.to_owned()))
            }
            _ => hole(text).or_else(|| always_fills.then(|| (text.to_owned(), String::new()))),
        };
        let failed = |error: lacuna_text::Error| ApiError::refused(error.to_string());
        let (ids, is_hole) = match &found {
            Some((prefix, suffix)) => {
                (app.fim()?.prompt_text(tokenizer, prefix, suffix).map_err(failed)?, true)
            }
            None => (tokenizer.encode_with_special_tokens(text).map_err(failed)?, false),
        };
        let text = Some(found.map_or_else(|| text.to_owned(), |(prefix, _)| prefix));
        Ok(Asked { ids, text, is_hole })
    };
    let tokens = |ids: &Vec<u32>| -> Result<Asked, ApiError> {
        let vocab = app.model.config().vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
            let reason = format!("token {id} is none of the model's {vocab}");
            return Err(ApiError::wrong("prompt", reason));
        }
        let text = app.tokenizer().ok().and_then(|tokenizer| tokenizer.decode(ids).ok());
        Ok(Asked { ids: ids.clone(), text, is_hole: false })
    };
    let prompts: Vec<Asked> = match prompt {
        Prompt::Text(text) => vec![one(text)?],
        // An empty list is a list of ids to whoever reads it.
        Prompt::Ids(ids) if ids.is_empty() => Vec::new(),
        Prompt::Ids(ids) => vec![tokens(ids)?],
        Prompt::Texts(texts) => texts.iter().map(|text| one(text)).collect::<Result<_, _>>()?,
        Prompt::IdLists(lists) => lists.iter().map(tokens).collect::<Result<_, _>>()?,
    };
    match prompts.is_empty() {
        true => Err(ApiError::wrong("prompt", "is an empty list")),
        false => Ok(prompts),
    }
}

fn streamed(
    heard: Vec<Receiver<Reply>>,
    names: Names,
    echo: Vec<String>,
    n: usize,
    with_usage: bool,
) -> Response {
    let mut echo: Vec<Option<String>> = (0..heard.len())
        .map(|at| Some(echo[at / n].clone()).filter(|text| !text.is_empty()))
        .collect();
    let ended = Arc::new(Mutex::new(Vec::<Written>::new()));
    let (told, end_names) = (Arc::clone(&ended), names.clone());
    let write = move |number: usize, reply: Reply| match reply {
        Reply::Text(piece) => {
            let text = echo[number].take().unwrap_or_default() + &piece;
            event(&names.with(json!([choice(number, &text, None)])))
        }
        Reply::Done(written) => {
            let text = echo[number].take().unwrap_or_default();
            let last = choice(number, &text, Some(finish_reason(&written)));
            if let Ok(mut ended) = told.lock() {
                ended.push(*written);
            }
            event(&names.with(json!([last])))
        }
        _ => String::new(),
    };
    Events::response(heard, String::new(), Box::new(write), move || {
        let ended = ended.lock().map(|mut ended| std::mem::take(&mut *ended)).unwrap_or_default();
        let mut last = String::new();
        if with_usage {
            let mut chunk = end_names.with(json!([]));
            chunk["usage"] = usage(&ended.iter().collect::<Vec<_>>(), n);
            last = event(&chunk);
        }
        last + DONE
    })
}

/// Tells how likely each token of the prompts is, and of the one more that may be asked for.
async fn scored(
    app: &App,
    prompts: Vec<Asked>,
    options: &GenerateOptions,
    (way, best): (Way, usize),
    names: &Names,
) -> Result<Response, ApiError> {
    let tokenizer = app.tokenizer()?;
    let positions = app.positions();
    let mut texts: Vec<Vec<u32>> = prompts.into_iter().map(|prompt| prompt.ids).collect();
    if let Some(long) = texts.iter().find(|ids| ids.len() + options.max_new_tokens > positions) {
        let reason =
            format!("{} tokens are more than the model's {positions} positions", long.len());
        return Err(ApiError::wrong("prompt", reason));
    }
    let prompt_tokens: usize = texts.iter().map(Vec::len).sum();
    let mut new = 0;
    if options.max_new_tokens > 0 {
        let tasks = texts.iter().map(|ids| app.resolved(ids.clone(), options).map(Task::Write));
        let heard = app.submit(tasks.collect::<Result<_, _>>()?, way)?;
        for (ids, written) in texts.iter_mut().zip(replies::all(app, heard).await?) {
            new += written.completion.tokens.len();
            ids.extend(written.completion.tokens);
        }
    }
    let tasks = texts.iter().map(|tokens| Task::Score { tokens: tokens.clone(), best });
    let heard = app.submit(tasks.collect(), way)?;
    let mut choices = Vec::new();
    for (index, (ids, mut from)) in texts.iter().zip(heard).enumerate() {
        let scores = loop {
            match from.recv().await {
                Some(Reply::Scored(scores)) => break scores,
                Some(reply) => {
                    if let Some((status, reason)) = failed(&reply) {
                        return Err(ApiError::new(status, reason));
                    }
                }
                None => return Err(given_up(app)),
            }
        };
        let spelled = |id: u32| {
            let bytes = tokenizer.bytes_of(id).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let tokens: Vec<String> = ids.iter().map(|id| spelled(*id)).collect();
        let mut choice = choice(index, &tokens.concat(), Some("length"));
        choice["logprobs"] = logprobs(&tokens, &scores, &spelled);
        choices.push(choice);
    }
    let mut body = names.with(choices.into());
    body["usage"] = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new,
        "total_tokens": prompt_tokens + new,
    });
    let mut response = json_response(StatusCode::OK, &body);
    let method = HeaderValue::from_static(likelihood_name(&app.model));
    response.headers_mut().insert("x-lacuna-likelihood", method);
    Ok(response)
}

/// The likelihoods in OpenAI's form: the first token has none.
fn logprobs(tokens: &[String], scores: &[TokenScore], spelled: &dyn Fn(u32) -> String) -> Value {
    let mut offset = 0;
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(offset);
        offset += token.chars().count();
    }
    let first = tokens.first().map(|_| Value::Null);
    let own = first.clone().into_iter().chain(scores.iter().map(|score| json!(-score.nats)));
    let best = first.into_iter().chain(scores.iter().map(|score| {
        let mut best = Map::new();
        for (id, nats) in &score.best {
            // Two tokens may be spelled alike, half characters above all: the likelier one stands.
            best.entry(spelled(*id)).or_insert_with(|| json!(-nats));
        }
        Value::Object(best)
    }));
    json!({
        "tokens": tokens,
        "token_logprobs": own.collect::<Vec<_>>(),
        "top_logprobs": best.collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}
